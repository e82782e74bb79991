// WAV files. They are read here rather than by the browser, which would change the samples.

const HEADER_BYTES = 44;
const PCM = 1;
const FLOAT = 3;
const EXTENSIBLE = 0xfffe;

const readers = {
  [`${PCM},16`]: (view, at) => view.getInt16(at, true) / 2 ** 15,
  [`${PCM},24`]: (view, at) => (view.getUint16(at, true) + view.getInt8(at + 2) * 2 ** 16) / 2 ** 23,
  [`${PCM},32`]: (view, at) => view.getInt32(at, true) / 2 ** 31,
  [`${FLOAT},32`]: (view, at) => view.getFloat32(at, true),
  [`${FLOAT},64`]: (view, at) => view.getFloat64(at, true),
};

/** `{rate, samples}`, the mean of all channels; null for what is not read here. */
export function read(bytes) {
  const view = new DataView(bytes);
  const word = (at) => String.fromCharCode(...new Uint8Array(bytes, at, 4));
  if (bytes.byteLength < HEADER_BYTES || word(0) !== "RIFF" || word(8) !== "WAVE") return null;
  let format = null;
  for (let at = 12; at + 8 <= bytes.byteLength; ) {
    const start = at + 8;
    const rest = bytes.byteLength - start;
    let size = Math.min(view.getUint32(at + 4, true), rest);
    // a recorder that was stopped leaves the size open
    if (word(at) === "data" && size === 0) size = rest;
    if (word(at) === "fmt " && size >= 16) format = formatOf(view, start, size);
    if (word(at) === "data") return format && samplesOf(view, start, size, format);
    at = start + size + (size % 2);
  }
  return null;
}

function formatOf(view, at, size) {
  let kind = view.getUint16(at, true);
  // its first two bytes are the kind
  if (kind === EXTENSIBLE && size >= 26) kind = view.getUint16(at + 24, true);
  const channels = view.getUint16(at + 2, true);
  const bits = view.getUint16(at + 14, true);
  const read = readers[`${kind},${bits}`];
  return read && channels ? { read, channels, rate: view.getUint32(at + 4, true), bits } : null;
}

function samplesOf(view, start, size, { read, channels, rate, bits }) {
  const step = bits / 8;
  const samples = new Float32Array(Math.floor(size / step / channels));
  for (let i = 0, at = start; i < samples.length; i++) {
    let sum = 0;
    for (let c = 0; c < channels; c++, at += step) sum = Math.fround(sum + read(view, at));
    samples[i] = sum / channels;
  }
  return { rate, samples };
}

/** A mono WAV file of 16 bits. */
export function write(samples, rate) {
  const bytes = new ArrayBuffer(HEADER_BYTES + 2 * samples.length);
  const view = new DataView(bytes);
  const word = (at, text) => [...text].forEach((c, i) => view.setUint8(at + i, c.charCodeAt(0)));
  word(0, "RIFF");
  view.setUint32(4, bytes.byteLength - 8, true);
  word(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, PCM, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  word(36, "data");
  view.setUint32(40, 2 * samples.length, true);
  samples.forEach((x, i) => {
    const value = Math.max(-32768, Math.min(32767, Math.round(x * 32768)));
    view.setInt16(HEADER_BYTES + 2 * i, value, true);
  });
  return new Uint8Array(bytes);
}
