"""The report of `speechkit compress`: a row for each model, and a page with a plot."""

from speechkit.report.page import page, scatter, table
from speechkit_compression.search import Candidate, Search

HEAD = ["transforms", "error", "time", "size", "model"]


def cells(one: Candidate) -> list[str]:
    """A candidate's row; healing is left out of the chain."""
    chain = " ".join(name for name in one.transforms if not name.startswith("heal:"))
    if one.error is None:
        return [chain, one.reason, "", "", ""]
    figures = f"{one.error:.4f}", f"{one.latency:.3f}", f"{one.size:.3f}"
    return [chain or "none", *figures, one.folder or "the original"]


def compression_page(title: str, search: Search) -> str:
    """The page: all models by cost and error, those that no other one beats, and then all."""
    known = [one for one in search.found if one.error is not None]
    front = search.front()
    points = [(search.cost(one), one.error or 0.0) for one in known]
    joined = [(search.cost(one), one.error or 0.0) for one in front]
    across = {"latency": "time of a stream", "size": "parameters"}[search.budget.cost]
    figures = {
        "recordings": len(search.train) + len(search.dev),
        "held out for the errors": len(search.dev),
        "batches of healing after each transform": search.settings.steps,
        f"{across}, at most": search.budget.share,
    }
    sections = [
        (
            "Error and cost, relative to the original",
            scatter(points, joined, across, "error", search.budget.share),
        ),
        ("Models that no cheaper one equals", table(HEAD, list(map(cells, front)))),
        ("All models", table(HEAD, list(map(cells, search.found)))),
    ]
    return page(f"Compression of {title}", figures, sections)
