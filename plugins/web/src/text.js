// Words and their times on the best CTC path: speechkit/text/align.py in JavaScript.

import { micro } from "./numbers.js";

/** How long before its first label a word begins, unless the word before still lasts. */
const EARLY_S = 0.2;
const SURE = 1e-6;

/** The index of the largest number, the first of equals. */
export function best(scores) {
  let index = 0;
  for (let i = 1; i < scores.length; ++i) if (scores[i] > scores[index]) index = i;
  return index;
}

/** The words of label ids in frames of log-probabilities, the blank last; all times lie from
 * `beginS` to `endS`. */
export function wordsOf(frames, ids, labels, frameS, beginS, endS, [scale, bias]) {
  const spans = align(frames, ids), words = [];
  let spokenUntilS = micro(beginS);
  for (let i = 0; i < ids.length; ++i) {
    if (labels[ids[i]] === " ") continue;
    const from = i;
    while (i + 1 < ids.length && labels[ids[i + 1]] !== " ") ++i;
    const startS = Math.max(spokenUntilS, micro(micro(beginS + spans[from][0] * frameS) - EARLY_S));
    spokenUntilS = micro(beginS + (spans[i][1] + 1) * frameS);
    let text = "", score = 1;
    for (let n = from; n <= i; ++n) {
      text += labels[ids[n]];
      const [first, last] = spans[n];
      score *= Math.exp(Math.max(...frames.slice(first, last + 1).map((frame) => frame[ids[n]])));
    }
    const p = Math.min(Math.max(score, SURE), 1 - SURE);
    score = (1 + Math.tanh((scale * Math.log(p / (1 - p)) + bias) / 2)) / 2;
    words.push({ text, start_s: Math.min(startS, endS), end_s: Math.min(spokenUntilS, endS), score });
  }
  return words;
}

/** The first and the last frame of each label on the best path (Viterbi over blank, id, blank, …). */
function align(frames, ids) {
  if (!ids.length) return [];
  const count = 2 * ids.length + 1, blank = frames[0].length - 1;
  const states = Array.from({ length: count }, (_, s) => (s % 2 ? ids[(s - 1) / 2] : blank));
  const skips = states.map((id, s) => s % 2 === 1 && s >= 3 && id !== states[s - 2]);
  let scores = new Float64Array(count).fill(-Infinity);
  for (let s = 0; s < 2; ++s) scores[s] = frames[0][states[s]];
  const cameFrom = frames.map(() => new Uint8Array(count));
  for (let t = 1; t < frames.length; ++t) {
    const next = new Float64Array(count);
    for (let s = 0; s < count; ++s) {
      let from = 0, score = scores[s];
      if (s >= 1 && scores[s - 1] > score) [from, score] = [1, scores[s - 1]];
      if (skips[s] && scores[s - 2] > score) [from, score] = [2, scores[s - 2]];
      cameFrom[t][s] = from;
      next[s] = score + frames[t][states[s]];
    }
    scores = next;
  }
  const spans = ids.map(() => [0, 0]);
  let state = count - 1 - (scores[count - 1] < scores[count - 2] ? 1 : 0), later = -1;
  for (let t = frames.length - 1; t >= 0; --t) {
    if (state % 2) {
      const span = spans[(state - 1) / 2];
      span[0] = t;
      if (state !== later) span[1] = t;
    }
    later = state;
    state -= cameFrom[t][state];
  }
  return spans;
}
