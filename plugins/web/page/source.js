// A source of events without a server: the models run in this page. socket.js describes a source.

import { load } from "../web/index.js";

export const PLACE = "The sound stays in this browser.";

/** The models beside the page. */
export async function models() {
  const response = await fetch("models.json").catch(() => ({}));
  if (!response.ok) throw new Error("The list of models cannot be loaded. Reload the page.");
  rows = await response.json();
  return rows;
}

let rows = [];

/** A stream of sound to a model; `thresholds` are `onset` and `offset` of a detector. */
export function open({ model, rate, thresholds = {} }) {
  const postprocess = Object.entries(thresholds).map(([name, text]) => [name, Number(text)]);
  const options = { sampleRate: rate };
  if (postprocess.length) options.postprocess = Object.fromEntries(postprocess);
  // as in `speechkit listen`, text is returned only where there is speech
  if (rows.find(({ id }) => id === model).verb === "transcribe") options.vad = planOf("vad");
  let session = null;
  let over = false;
  let waiting = [];

  const tell = (row) => {
    if (over) return;
    over = row.event === "end" || row.event === "error";
    stream.onevent(row);
  };
  // steps begin when the model is loaded, and in their order
  const step = (work) => {
    if (over) return;
    if (!session) {
      waiting.push(work);
      return;
    }
    try {
      work().forEach(tell);
    } catch (error) {
      tell({ event: "error", message: error.message });
    }
  };
  load(planOf(model), options)
    .then((loaded) => {
      session = loaded;
      waiting.splice(0).forEach(step);
    })
    .catch((error) => tell({ event: "error", message: error.message }));

  const stream = {
    onevent: () => {},
    feed: (samples) => step(() => session.feed(samples.slice())),
    finish: () => step(() => [...session.finish(), { event: "end" }]),
    close() {
      over = true;
    },
    unsent_s: 0,
  };
  return stream;
}

const planOf = (model) => new URL(`models/${model}.safetensors`, document.baseURI);
