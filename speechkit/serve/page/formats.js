// The files to save, as `speechkit transcribe --format srt`, `vad --format rttm` and `vad --cut`
// write them.

import { write } from "./wav.js";

const LINE = 42;
const LINES = 2;
const LONGEST_S = 7;
const PAUSE_S = 0.8;

/** SubRip subtitles of words. */
export function srt(words) {
  return subtitles(words)
    .map(
      (cue, i) =>
        `${i + 1}\n${clock(cue[0].start_s)} --> ${clock(cue.at(-1).end_s)}\n` +
        `${linesOf(cue).join("\n")}\n\n`,
    )
    .join("");
}

/** The words of each subtitle; one ends at a pause, when it is long, and when it is full. */
function subtitles(words) {
  const cues = [];
  for (const word of words) {
    const cue = cues.at(-1);
    const fits =
      cue &&
      word.start_s - cue.at(-1).end_s < PAUSE_S &&
      word.end_s - cue[0].start_s <= LONGEST_S &&
      linesOf([...cue, word]).length <= LINES;
    if (fits) cue.push(word);
    else cues.push([word]);
  }
  return cues;
}

function linesOf(words) {
  const lines = [];
  for (const { text } of words) {
    const longer = `${lines.at(-1)} ${text}`;
    if (lines.length && longer.length <= LINE) lines[lines.length - 1] = longer;
    else lines.push(text);
  }
  return lines;
}

function clock(time_s) {
  const ms = Math.round(time_s * 1000);
  const two = (number) => String(Math.floor(number)).padStart(2, "0");
  const [hours, minutes, seconds] = [ms / 3.6e6, (ms / 60000) % 60, (ms / 1000) % 60].map(two);
  return `${hours}:${minutes}:${seconds},${String(ms % 1000).padStart(3, "0")}`;
}

/** NIST's Rich Transcription Time Marked: a line for each segment. */
export function rttm(segments, name) {
  const word = name.trim().split(/\s+/).join("_");
  return segments
    .map(
      ({ start_s, end_s }) =>
        `SPEAKER ${word} 1 ${start_s.toFixed(3)} ${(end_s - start_s).toFixed(3)} ` +
        "<NA> <NA> speech <NA> <NA>\n",
    )
    .join("");
}

/** The segment with a number from 0 on as a WAV file `{name, bytes}`. */
export function cutOf({ start_s, end_s }, number, recording) {
  const [start, end] = [start_s, end_s].map((time_s) => Math.round(time_s * recording.rate));
  const place = String(number + 1).padStart(4, "0");
  return {
    name: `${recording.name}_${place}_${start_s.toFixed(2)}-${end_s.toFixed(2)}.wav`,
    bytes: write(recording.slice(start, end), recording.rate),
  };
}
