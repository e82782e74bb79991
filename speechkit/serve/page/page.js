// The page: connects its elements to the sound and to what the models return.

import { recordingOf } from "./file.js";
import { cutOf, rttm, srt } from "./formats.js";
import { Listening } from "./listening.js";
import * as microphone from "./microphone.js";
import { Picture, clock } from "./picture.js";
import { Recording } from "./recording.js";
import { Segments } from "./segments.js";
import * as source from "./source.js";
import { Transcript } from "./transcript.js";
import { zip } from "./zip.js";

const LONGEST_S = 1800;
const SLOW_S = 2;
const RETUNE_MS = 250;
const KEPT_MS = 60000;
const START = "Use the microphone";
const STOP = "Stop";

const $ = (id) => document.getElementById(id);
const picture = new Picture($("picture"));
const transcript = new Transcript($("words"), $("partial"));
const segments = new Segments({
  list: $("segments"),
  none: $("no-segments"),
  count: $("segments-count"),
  onshow: (i) => picture.moveTo(listening.segments[i].start_s - picture.view_s / 4),
  onsave: (i) => {
    const { name, bytes } = cutOf(listening.segments[i], i, listening.recording);
    save(name, bytes);
  },
});

let token = "";
let models = [];
/** The recording in use, and what the models returned for it. */
let listening = null;
/** The running microphone, if any. */
let running = null;

// connecting

async function connect() {
  try {
    models = await source.models(token);
  } catch (error) {
    $("token-form").hidden = error.status !== 401;
    $("token").focus();
    tell("");
    complain(error.message);
    return;
  }
  $("token-form").hidden = true;
  complain("");
  offer($("detector"), "detect", "none");
  offer($("recogniser"), "transcribe", "none");
  takeThresholds();
  $("text").hidden = !$("recogniser").value;
  const able = $("detector").value || $("recogniser").value;
  $("microphone").disabled = $("file").disabled = !able;
  tell(able ? "Ready" : "");
  if (!able) complain("No model here finds speech or text in live sound.");
}

/** Lists the models with a verb, and selects the first. */
function offer(select, verb, none) {
  const able = models.filter((model) => model.verb === verb).map(({ id }) => new Option(id, id));
  select.replaceChildren(...able, new Option(none, ""));
  select.selectedIndex = 0;
}

$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token").value.trim();
  connect();
});

// listening

function hear(recording) {
  listening?.close();
  complain("");
  transcript.clear();
  listening = new Listening(recording, source.open, {
    detector: $("detector").value,
    recogniser: $("recogniser").value,
    thresholds: thresholds(),
    token,
  });
  listening.onchange = show;
  listening.onerror = fail;
  $("text").hidden = !listening.recogniser;
  picture.show(listening);
  show();
}

async function startMicrophone() {
  $("microphone").disabled = $("file").disabled = true;
  complain("");
  try {
    // the first samples come after the promise is settled
    running = await microphone.start(take, stopMicrophone);
    hear(new Recording("microphone", running.rate));
    $("microphone").textContent = STOP;
    lockModels(true);
  } catch (error) {
    complain(error.message);
    $("file").disabled = false;
  }
  $("microphone").disabled = false;
}

function take(samples) {
  listening.append(samples);
  if (listening.recording.duration_s > LONGEST_S) {
    stopMicrophone(`The page keeps ${LONGEST_S / 60} minutes. Save what you need, then start again.`);
  }
}

async function stopMicrophone(reason = "") {
  const stopped = running;
  if (!stopped) return;
  running = null;
  $("microphone").disabled = true;
  complain(reason);
  await stopped.stop();
  listening.end();
  $("microphone").textContent = START;
  $("microphone").disabled = $("file").disabled = false;
  lockModels(false);
}

function fail(message) {
  complain(message);
  stopMicrophone(message);
}

function lockModels(locked) {
  $("detector").disabled = $("recogniser").disabled = locked;
}

$("microphone").addEventListener("click", () => (running ? stopMicrophone() : startMicrophone()));

$("file").addEventListener("change", async ({ target }) => {
  const [file] = target.files;
  if (!file) return;
  $("microphone").disabled = $("file").disabled = true;
  tell("Reading…");
  try {
    hear(await recordingOf(file));
  } catch (error) {
    tell(listening ? statusOf(listening) : "Ready");
    complain(error.message);
  }
  $("microphone").disabled = $("file").disabled = false;
  // the same file may be opened again
  target.value = "";
});

// thresholds

function thresholds() {
  return $("onset").disabled ? {} : { onset: $("onset").value, offset: $("offset").value };
}

/** Sets the sliders to the detector's own thresholds. */
function takeThresholds() {
  const detector = models.find(({ id }) => id === $("detector").value);
  const rule = detector?.rules.postprocess;
  for (const name of ["onset", "offset"]) {
    $(name).disabled = !rule;
    if (rule) $(name).value = rule[name];
  }
  showThresholds();
}

function showThresholds() {
  for (const name of ["onset", "offset"]) {
    $(`${name}-value`).textContent = Number($(name).value).toFixed(2);
  }
}

let retuning = 0;

for (const [moved, other, most] of [
  ["onset", "offset", Math.min],
  ["offset", "onset", Math.max],
]) {
  $(moved).addEventListener("input", () => {
    // speech ends at or below where it starts
    $(other).value = most($(moved).value, $(other).value);
    showThresholds();
    clearTimeout(retuning);
    retuning = setTimeout(() => listening?.retune(thresholds()), RETUNE_MS);
  });
}

$("detector").addEventListener("change", takeThresholds);

// showing

function show() {
  transcript.update(listening);
  segments.update(listening.segments);
  picture.refresh();
  $("save-srt").disabled = !listening.finals.length;
  $("save-rttm").disabled = $("save-cuts").disabled = !closedSegments().length;
  tell(statusOf(listening));
}

function statusOf({ recording, done, behind_s }) {
  const heard = clock(recording.duration_s);
  const waiting = behind_s.toFixed(0);
  if (!recording.ended) {
    return behind_s < SLOW_S
      ? `Listening, ${heard}`
      : `Listening, ${heard}. The connection is slow: ${waiting} s are not sent yet, none are lost.`;
  }
  if (done) return `Done, ${heard}`;
  return behind_s < SLOW_S ? "Finishing…" : `Sending, ${waiting} s are left`;
}

function tell(status) {
  if ($("status").textContent !== status) $("status").textContent = status;
}

function complain(message) {
  $("error").textContent = message;
  $("error").hidden = !message;
}

picture.onmove = (start_s, latest_s) => {
  const position = $("position");
  $("position-label").hidden = latest_s <= 0;
  position.max = latest_s;
  position.value = start_s;
  position.setAttribute("aria-valuetext", clock(start_s));
};

$("position").addEventListener("input", ({ target }) => picture.moveTo(Number(target.value)));

// saving

function save(name, content) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content]));
  link.download = name;
  link.click();
  // some browsers read it after the click
  setTimeout(() => URL.revokeObjectURL(link.href), KEPT_MS);
}

const closedSegments = () => listening.segments.filter(({ end_s }) => end_s !== null);

$("save-srt").addEventListener("click", () => {
  save(`${listening.recording.name}.srt`, srt(listening.finals.flatMap(({ words }) => words)));
});

$("save-rttm").addEventListener("click", () => {
  save(`${listening.recording.name}.rttm`, rttm(closedSegments(), listening.recording.name));
});

$("save-cuts").addEventListener("click", () => {
  const { recording } = listening;
  const cuts = closedSegments().map((segment, i) => cutOf(segment, i, recording));
  save(`${recording.name}_cuts.zip`, zip(cuts));
});

$("place").textContent = source.PLACE;
connect();
