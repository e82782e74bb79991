// The end of an utterance in a stream: speechkit/rules/endpointing.py in JavaScript.

import { whole } from "../numbers.js";

export const DEFAULTS = {
  ...{ silence_before_s: 2.4, silence_after_s: 1.2, longest_s: 20, least_score: 0 },
};

/** The rule in frames. */
export function ruleOf(endpointing, frameS) {
  const frames = (seconds) => Math.max(1, whole(seconds / frameS));
  return {
    before: frames(endpointing.silence_before_s),
    after: frames(endpointing.silence_after_s),
    longest: frames(endpointing.longest_s),
  };
}

export const START = { frames: 0, silent: 0, spoken: false };

/** The state after one more frame, and whether the segment ends there. */
export function advance(rule, state, isSilent) {
  const frames = state.frames + 1, spoken = state.spoken || !isSilent;
  const silent = isSilent ? state.silent + 1 : 0;
  const ends = silent >= (spoken ? rule.after : rule.before) || frames >= rule.longest;
  return [ends ? START : { frames, silent, spoken }, ends];
}
