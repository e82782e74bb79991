// From scores to events, one class for each task: speechkit/streaming/listeners.py in JavaScript.

import { micro } from "./numbers.js";
import { detects, frameS } from "./plan.js";
import * as endpointing from "./rules/endpointing.js";
import * as spotting from "./rules/spotting.js";
import * as vad from "./rules/vad.js";
import { best, wordsOf } from "./text.js";

/** What a detector of clips reads at a time. */
const SEGMENT_S = 0.63;
const TASKS = ["ctc", "clip", "frame"];

/** The listener for the scores of a plan. */
export function listenerFor(about) {
  if (!TASKS.includes(about.task)) return new Silent();
  if (about.decodes) return new TextListener(about);
  return detects(about) ? new SpeechListener(about) : new KeywordListener(about);
}

/** Starts and ends of speech; class 1 is speech. */
class SpeechListener {
  #state = vad.START;

  constructor(about) {
    this.frameS = frameS(about);
    this.rule = vad.ruleOf(about.rules.postprocess, this.frameS);
    this.lagS = about.per_clip ? SEGMENT_S / 2 : 0;
  }

  step(frames, decidedS) {
    const events = [];
    for (const logits of frames) {
      const [state, edges] = vad.advance(this.rule, this.#state, softmax(logits)[1]);
      this.#state = state;
      for (const edge of edges) events.push(this.#event(edge, decidedS));
    }
    return events;
  }

  finish(decidedS) {
    const edge = vad.finish(this.rule, this.#state);
    return edge ? [this.#event(edge, decidedS)] : [];
  }

  #event({ frame, starts }, decidedS) {
    // the last frame may reach beyond the sound's end
    const atS = Math.min(Math.max(0, micro(frame * this.frameS - this.lagS)), decidedS);
    return timed(starts ? "speech_start" : "speech_end", {}, atS, decidedS);
  }
}

/** A classifier's labels from the logits of its sliding window. */
class KeywordListener {
  #state = spotting.START;

  constructor(about) {
    this.frameS = frameS(about);
    this.rule = about.rules.spotting;
    this.labels = about.labels;
  }

  step(frames, decidedS) {
    const events = [];
    for (const logits of frames) {
      const probabilities = softmax(logits), index = best(probabilities);
      const label = this.labels[index], score = probabilities[index];
      const reported = this.rule.silent.includes(label) ? -1 : index;
      const [state, detected] = spotting.advance(this.rule, this.frameS, this.#state, reported, score);
      this.#state = state;
      if (!detected) continue;
      const atS = Math.min(micro(state.frames * this.frameS), decidedS);
      events.push(timed("keyword", { label, score: micro(score) }, atS, decidedS));
    }
    return events;
  }

  finish() {
    return [];
  }
}

/** Text from CTC log-probabilities, greedily: partial as it grows, final where a segment ends. */
class TextListener {
  #begun = 0;
  #segment = endpointing.START;
  #frames = [];
  #ids = [];
  #last;
  #shown = "";

  constructor(about) {
    this.frameS = frameS(about);
    this.rule = endpointing.ruleOf(about.rules.endpointing, this.frameS);
    this.leastScore = about.rules.endpointing.least_score;
    this.confidence = about.confidence;
    this.labels = about.labels;
    this.#last = this.blank = about.labels.length;
  }

  step(frames, decidedS) {
    const events = [];
    for (const scores of frames) {
      const label = best(scores);
      if (label !== this.#last && label !== this.blank) this.#ids.push(label);
      this.#last = label;
      this.#frames.push(scores);
      const isSilent = label === this.blank || this.labels[label] === " ";
      const [segment, ends] = endpointing.advance(this.rule, this.#segment, isSilent);
      this.#segment = segment;
      if (ends) events.push(...this.finish(decidedS));
    }
    const text = this.#text();
    if (text !== this.#shown) {
      this.#shown = text;
      const atS = Math.min(micro(this.#until() * this.frameS), decidedS);
      events.push(timed("partial", { text, stable: text }, atS, decidedS));
    }
    return events;
  }

  /** The events of a segment at its end; the next one begins. */
  finish(decidedS) {
    const endS = Math.min(micro(this.#until() * this.frameS), decidedS), text = this.#text();
    const words = wordsOf(
      ...[this.#frames, this.#ids, this.labels, this.frameS, this.#begun * this.frameS, endS],
      this.confidence,
    );
    const shown = this.#shown;
    this.#begun = this.#until();
    [this.#segment, this.#frames, this.#ids, this.#last] = [endpointing.START, [], [], this.blank];
    this.#shown = "";
    const mean = words.reduce((sum, word) => sum + word.score, 0) / words.length;
    if (!text || mean < this.leastScore)
      return shown ? [timed("partial", { text: "", stable: "" }, endS, decidedS)] : [];
    const rows = words.map((word) => ({
      ...{ text: word.text, start_s: micro(word.start_s), end_s: micro(word.end_s) },
      score: micro(word.score),
    }));
    return [timed("final", { text, words: rows }, words.at(-1).end_s, decidedS)];
  }

  /** The frame after the last one. */
  #until() {
    return this.#begun + this.#frames.length;
  }

  #text() {
    return this.#ids.map((id) => this.labels[id]).join("").trim();
  }
}

/** Gives no events, for a plugin's task. */
class Silent {
  step() {
    return [];
  }

  finish() {
    return [];
  }
}

function timed(event, fields, atS, decidedS) {
  return { event, ...fields, at_s: micro(atS), decided_s: micro(decidedS) };
}

function softmax(logits) {
  const top = Math.max(...logits), shares = Array.from(logits, (x) => Math.exp(x - top));
  const sum = shares.reduce((a, b) => a + b, 0);
  return shares.map((share) => share / sum);
}
