// The rules of a plan with some of their numbers changed: speechkit/rules/changed.py in JavaScript.

import { expect, shown } from "../errors.js";
import * as endpointing from "./endpointing.js";
import * as spotting from "./spotting.js";
import * as vad from "./vad.js";

const MAX_TIME_S = 86_400;
const RULES = {
  postprocess: vad.DEFAULTS,
  spotting: spotting.DEFAULTS,
  endpointing: endpointing.DEFAULTS,
};

/** The `about` of a plan with its rules complete and changed. A lower onset also lowers the offset
 * in proportion, unless that is given too. */
export function withRules(about, given) {
  const rules = {};
  for (const [name, defaults] of Object.entries(RULES)) {
    const own = about[name], changes = given[name] ?? {};
    expect(
      own || given[name] === undefined,
      `a ${shown(about.kind)} has no ${name}; leave it out`,
    );
    const rule = { ...defaults, ...own, ...changes };
    if (changes.onset < own?.onset && changes.offset === undefined)
      rule.offset = (own.offset * changes.onset) / own.onset;
    check(rule, defaults, name);
    rules[name] = rule;
  }
  expect(
    rules.spotting.window_s === (about.spotting ?? rules.spotting).window_s,
    `window_s=${rules.spotting.window_s}: this plan was made for ${about.spotting?.window_s}`,
  );
  return { ...about, rules };
}

function check(rule, defaults, where) {
  for (const [name, value] of Object.entries(rule)) {
    expect(
      name in defaults,
      `${where} has no ${shown(name)}; give one of ${Object.keys(defaults).join(", ")}`,
    );
    const fits = Array.isArray(defaults[name])
      ? Array.isArray(value)
      : (value === null && defaults[name] === null) || (Number.isFinite(value) && value >= 0);
    expect(fits, `${where}.${name}=${shown(value)}; expected a number from 0 up`);
  }
  for (const name of ["silence_before_s", "silence_after_s", "longest_s"])
    expect(rule[name] !== 0, `${where}.${name}=0; expected a number above 0`);
  for (const name of ["onset", "offset", "threshold", "least_score"])
    expect(!(rule[name] > 1), `${where}.${name}=${rule[name]}; expected a number from 0 to 1`);
  // a segment is split in its second half, after its start was decided
  const leastS = Math.max(0.1, (rule.min_speech_ms + rule.pad_onset_ms) / 500);
  expect(
    !(rule.max_speech_s !== null && (rule.max_speech_s < leastS || rule.max_speech_s > MAX_TIME_S)),
    `${where}.max_speech_s=${rule.max_speech_s}; expected ${leastS} to ${MAX_TIME_S}, or null`,
  );
  expect(
    !(rule.offset > rule.onset),
    `${where}: offset=${rule.offset} is above onset=${rule.onset}; give 0 <= offset <= onset <= 1`,
  );
}
