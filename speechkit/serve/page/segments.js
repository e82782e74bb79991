// The list of segments, each with its times and buttons to show it and to save it.

import { clock } from "./picture.js";

export class Segments {
  #list;
  #none;
  #count;
  #shown = null;

  /** `onshow` and `onsave` get the number of a segment. */
  constructor({ list, none, count, onshow, onsave }) {
    this.#list = list;
    this.#none = none;
    this.#count = count;
    list.addEventListener("click", ({ target }) => {
      const button = target.closest("button");
      if (!button) return;
      const number = [...list.children].indexOf(button.closest("li"));
      (button.className === "save" ? onsave : onshow)(number);
    });
  }

  update(segments) {
    if (segments !== this.#shown) this.#list.replaceChildren();
    this.#shown = segments;
    const rows = this.#list.children;
    const before = rows.length;
    // only the last one may have changed
    for (let i = Math.max(0, rows.length - 1); i < segments.length; i++) {
      if (!rows[i]) this.#list.append(row());
      fill(rows[i], segments[i]);
    }
    this.#list.hidden = !segments.length;
    // the newest is in sight, but the list does not move while it is in use
    if (rows.length > before && !this.#list.matches(":hover, :focus-within")) {
      this.#list.scrollTop = this.#list.scrollHeight;
    }
    this.#none.hidden = Boolean(segments.length);
    this.#count.textContent = segments.length || "";
  }
}

function row() {
  const item = document.createElement("li");
  const [show, save] = ["show", "save"].map((name) => {
    const button = document.createElement("button");
    button.className = name;
    return button;
  });
  const length = document.createElement("span");
  length.className = "length";
  save.textContent = "WAV";
  item.append(show, length, save);
  return item;
}

function fill(item, { start_s, end_s }) {
  const [show, length, save] = item.children;
  const closed = end_s !== null;
  const times = `${clock(start_s, 2)} – ${closed ? clock(end_s, 2) : "now"}`;
  if (show.textContent === times) return;
  show.textContent = times;
  show.setAttribute("aria-label", `Show ${times}`);
  length.textContent = closed ? `${(end_s - start_s).toFixed(2)} s` : "";
  save.setAttribute("aria-label", `Save ${times} as WAV`);
  save.disabled = !closed;
}
