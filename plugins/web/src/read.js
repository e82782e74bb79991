// Bytes from an address, a file of node, or memory.

import { expect, shown } from "./errors.js";

/** The bytes of a URL, a path (in node) or a buffer, at most `most`. */
export async function read(source, most) {
  const bytes = ArrayBuffer.isView(source)
    ? new Uint8Array(source.buffer, source.byteOffset, source.byteLength)
    : source instanceof ArrayBuffer
      ? new Uint8Array(source)
      : await fetched(source, most);
  expect(bytes.length <= most, `${bytes.length} bytes are more than ${most}; give a smaller file`);
  return bytes;
}

async function fetched(source, most) {
  expect(
    typeof source === "string" || source instanceof URL,
    `cannot read ${shown(source)}; give a URL, a path, an ArrayBuffer or a Uint8Array`,
  );
  const files = globalThis.process?.getBuiltinModule?.("node:fs");
  const url = address(source, files);
  if (url?.protocol === "file:" && files) return fromDisk(files, url, most);
  const response = await fetch(url).catch((error) => ({ statusText: error.message }));
  expect(response.ok, `${url} cannot be read: ${response.status ?? ""} ${response.statusText}`);
  const parts = [];
  let size = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    size += value.length;
    if (size > most) await reader.cancel();
    expect(size <= most, `${url} has more than ${most} bytes; give a smaller file`);
  }
  const bytes = new Uint8Array(size);
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

function address(source, files) {
  try {
    // a path may have signs that mean something else in a URL
    return files && !URL.canParse(source)
      ? process.getBuiltinModule("node:url").pathToFileURL(source)
      : new URL(source, globalThis.location?.href);
  } catch {
    return expect(false, `${shown(source)} is no URL; give a full one`);
  }
}

function fromDisk(files, url, most) {
  const found = (by) => {
    try {
      return by(url);
    } catch (error) {
      return expect(false, `${url} cannot be read: ${error.code}`);
    }
  };
  expect(
    found(files.statSync).size <= most,
    `${url} has more than ${most} bytes; give a smaller file`,
  );
  return new Uint8Array(found(files.readFileSync));
}
