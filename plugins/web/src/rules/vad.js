// From speech probabilities to segments of speech: speechkit/rules/vad.py in JavaScript.

import { whole } from "../numbers.js";

const LEVELS = 1000;

export const DEFAULTS = {
  ...{ onset: 0.5, offset: 0.35, min_speech_ms: 40, min_silence_ms: 200 },
  ...{ pad_onset_ms: 0, pad_offset_ms: 0, max_speech_s: null },
};

/** The rule in frames. */
export function ruleOf(post, frameS) {
  const frames = (ms) => whole(ms / 1000 / frameS);
  const before = frames(post.pad_onset_ms), after = frames(post.pad_offset_ms);
  const shortest = Math.max(1, frames(post.min_speech_ms));
  const longest = post.max_speech_s === null
    ? Infinity
    : Math.max(Math.trunc(post.max_speech_s / frameS + 1e-6), before + shortest + 1);
  const gap = Math.max(frames(post.min_silence_ms), before + after + 1);
  return { onset: post.onset, offset: post.offset, shortest, gap, before, after, longest };
}

/** How many frames must follow a frame before it is known to be speech or not. */
export function late(rule) {
  const run = Math.max(0, rule.shortest - 2);
  return Math.max(rule.before + rule.shortest - 1, rule.gap - rule.after - 1 + run);
}

export const START = {
  ...{ frames: 0, began: -1, ended: -1, speaking: false, edge: 0, pause: -1, level: 0 },
};

/** The state after one more frame, and the edges `{frame, starts}` that it decides. */
export function advance(rule, state, probability) {
  let { frames: now, began, ended, speaking, edge, pause, level } = state;
  if (began < 0 && probability >= rule.onset) {
    began = now;
  } else if (began >= 0 && probability < rule.offset) {
    if (now - began >= rule.shortest) ended = now;
    began = -1;
  }
  if (speaking && 2 * (now - edge) >= rule.longest) {
    const here = Math.min(Math.trunc(probability * LEVELS), LEVELS - 1);
    if (pause < 0 || here <= level) [pause, level] = [now, here];
  }
  const edges = [];
  if (began >= 0 && now + 1 - began >= rule.shortest) {
    ended = -1;
    if (!speaking) {
      [speaking, edge, pause] = [true, Math.max(edge, began - rule.before), -1];
      edges.push({ frame: edge, starts: true });
    }
  } else if (began < 0 && speaking && now + 1 - ended >= rule.gap) {
    [speaking, edge] = [false, ended + rule.after];
    edges.push({ frame: edge, starts: false });
  }
  if (speaking && now + 1 - edge >= rule.longest) {
    // within a pause the segment ends where it would if the pause went on
    speaking = ended < 0 || pause < ended;
    edge = speaking ? pause : Math.min(pause, ended + rule.after);
    edges.push({ frame: edge, starts: false });
    if (speaking) edges.push({ frame: edge, starts: true });
    pause = -1;
  }
  return [{ frames: now + 1, began, ended, speaking, edge, pause, level }, edges];
}

/** The end of a segment that is still open after the last frame, else null. */
export function finish(rule, state) {
  if (!state.speaking) return null;
  // a run too short to count does not move the end before it
  const ended = state.ended >= 0 ? state.ended : state.frames;
  return { frame: Math.min(ended + rule.after, state.frames), starts: false };
}
