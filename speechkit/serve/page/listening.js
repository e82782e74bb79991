// What models return for a recording: a detector returns segments of speech, a recogniser text.

import { Feeder } from "./feeder.js";

const PUMP_MS = 50;

export class Listening {
  #open;
  #token;
  #thresholds;
  #parts = new Map();
  #timer = 0;
  segments = [];
  finals = [];
  partial = "";
  onchange = () => {};
  onerror = () => {};

  /** `open` is that of a source; `detector` and `recogniser` are names of models, or "". */
  constructor(recording, open, { detector, recogniser, thresholds, token }) {
    this.recording = recording;
    this.#open = open;
    this.#token = token;
    this.#thresholds = thresholds;
    this.detector = detector;
    this.recogniser = recogniser;
    if (detector) this.#detect();
    if (recogniser) this.#hear("recogniser", { model: recogniser });
  }

  /** Finds the segments of the whole recording again, with other thresholds. */
  retune(thresholds) {
    this.#thresholds = thresholds;
    if (this.detector) this.#detect();
  }

  append(samples) {
    this.recording.append(samples);
    this.pump();
  }

  end() {
    this.recording.ended = true;
    this.pump();
  }

  pump() {
    for (const { feeder } of this.#parts.values()) feeder.pump();
    this.onchange();
  }

  /** Ends all streams at once. */
  close() {
    clearInterval(this.#timer);
    for (const { stream } of this.#parts.values()) stream.close();
    this.#parts.clear();
  }

  /** Whether the last events have come. */
  get done() {
    return this.#parts.size === 0;
  }

  get behind_s() {
    const each = [...this.#parts.values()].map(({ feeder }) => feeder.behind_s);
    return Math.max(0, ...each);
  }

  #detect() {
    this.segments = [];
    this.#hear("detector", { model: this.detector, thresholds: this.#thresholds });
  }

  #hear(part, options) {
    this.#parts.get(part)?.stream.close();
    const stream = this.#open({ ...options, rate: this.recording.rate, token: this.#token });
    const feeder = new Feeder(this.recording, stream);
    stream.onevent = (event) => this.#take(event, part, feeder);
    this.#parts.set(part, { stream, feeder });
    clearInterval(this.#timer);
    this.#timer = setInterval(() => this.pump(), PUMP_MS);
    this.pump();
  }

  #take(event, part, feeder) {
    switch (event.event) {
      case "speech_start":
        this.segments.push({ start_s: event.at_s, end_s: null });
        break;
      case "speech_end":
        this.segments.at(-1).end_s = event.at_s;
        break;
      case "partial":
        this.partial = event.text;
        break;
      case "final":
        this.finals.push(event);
        this.partial = "";
        break;
      case "error":
        this.#leave(part);
        this.onerror(event.message);
        break;
      case "end":
        this.#leave(part);
        if (!feeder.finished) this.onerror("The server stops. The text and the segments until then are kept.");
        break;
    }
    this.onchange();
  }

  #leave(part) {
    this.#parts.delete(part);
    if (this.done) clearInterval(this.#timer);
  }
}
