// When a label is detected: speechkit/rules/spotting.py in JavaScript.

import { whole } from "../numbers.js";

export const DEFAULTS = {
  ...{ window_s: 1, threshold: 0.8, hold_ms: 100, pause_ms: 200 },
  silent: ["unknown", "background", "silence"],
  // of whole clips; streams do not use it
  clip_skips: [],
};

export const START = { frames: 0, label: -1, held: 0, said: -1, silent: 0 };

/** The state after a frame whose best label is `label` (−1 for a silent one), and whether it is
 * detected in this frame. */
export function advance(rule, frameS, state, label, probability) {
  const [hold, pause] = [rule.hold_ms, rule.pause_ms].map((ms) => Math.max(1, whole(ms / 1000 / frameS)));
  const above = probability >= rule.threshold ? label : -1;
  const held = above >= 0 && above === state.label ? state.held + 1 : above >= 0 ? 1 : 0;
  let silent = above === state.said ? 0 : state.silent + 1;
  let said = silent >= pause ? -1 : state.said;
  const detected = held >= hold && above !== said;
  if (detected) [said, silent] = [above, 0];
  return [{ frames: state.frames + 1, label: above, held, said, silent }, detected];
}
