// A recording from a file.

import { Recording } from "./recording.js";
import { read } from "./wav.js";

const DECODED_HZ = 48000;
// as the server's
const LOWEST_HZ = 4000;
const HIGHEST_HZ = 384000;
const LOUDEST = 2;
// "fLaC"
const FLAC = 0x664c6143;

/** The whole recording; throws an Error with one line of plain English. */
export async function recordingOf(file) {
  const { rate, samples } = await decoded(file);
  const recording = new Recording(file.name.replace(/(.)\.[^.]*$/, "$1"), rate);
  recording.append(samples);
  recording.ended = true;
  return recording;
}

async function decoded(file) {
  let sound;
  try {
    const bytes = await file.arrayBuffer();
    sound = read(bytes) ?? (await byBrowser(bytes));
  } catch {
    throw new Error(`${file.name} is no recording that this browser can read. Try a WAV file.`);
  }
  const { rate } = sound;
  if (!(rate >= LOWEST_HZ && rate <= HIGHEST_HZ)) {
    throw new Error(`${file.name} is at ${rate} Hz. Try one at ${LOWEST_HZ} to ${HIGHEST_HZ} Hz.`);
  }
  if (!sound.samples.length) throw new Error(`${file.name} has no sound in it.`);
  // NaN is refused too
  if (!sound.samples.every((x) => Math.abs(x) <= LOUDEST)) {
    throw new Error(`${file.name} has samples far beyond ±1, or NaN. Divide them by the loudest.`);
  }
  return sound;
}

async function byBrowser(bytes) {
  const rate = rateOf(bytes);
  const buffer = await new OfflineAudioContext(1, 1, rate).decodeAudioData(bytes);
  const samples = buffer.getChannelData(0).slice();
  for (let c = 1; c < buffer.numberOfChannels; c++) {
    buffer.getChannelData(c).forEach((x, i) => (samples[i] += x));
  }
  return { rate, samples: samples.map((x) => x / buffer.numberOfChannels) };
}

/** The rate at which the browser gives the samples: that of a FLAC file, else `DECODED_HZ`. */
function rateOf(bytes) {
  const view = new DataView(bytes);
  const isFlac = bytes.byteLength > 22 && view.getUint32(0) === FLAC;
  // 20 bits of the file's first block, STREAMINFO (RFC 9639)
  return isFlac ? view.getUint32(18) >>> 12 : DECODED_HZ;
}
