// A ZIP archive whose files are stored without compression (PKWARE APPNOTE 4.3).

const table = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  return crc;
});

function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = (crc >>> 8) ^ table[(crc ^ byte) & 0xff];
  return ~crc >>> 0;
}

/** The bytes of numbers, each `[value, bytes]`, the lowest byte first. */
function packed(...numbers) {
  return numbers.flatMap(([value, count]) =>
    Array.from({ length: count }, (_, i) => Math.floor(value / 256 ** i) % 256),
  );
}

const VERSION = 20;
const UTF8_NAMES = 0x800;
// 1 January 1980, the first day of the format
const DATE = 0x21;

/** The archive of files `{name, bytes}` as a Blob. */
export function zip(files) {
  const parts = [];
  const entries = [];
  let offset = 0;
  for (const { name, bytes } of files) {
    const nameBytes = new TextEncoder().encode(name);
    const about = packed(
      ...[[VERSION, 2], [UTF8_NAMES, 2], [0, 2], [0, 2], [DATE, 2], [crc32(bytes), 4]],
      ...[[bytes.length, 4], [bytes.length, 4], [nameBytes.length, 2], [0, 2]],
    );
    const head = Uint8Array.from([...packed([0x04034b50, 4]), ...about, ...nameBytes]);
    entries.push(
      ...packed([0x02014b50, 4], [VERSION, 2]),
      ...about,
      ...packed([0, 2], [0, 2], [0, 2], [0, 4], [offset, 4]),
      ...nameBytes,
    );
    parts.push(head, bytes);
    offset += head.length + bytes.length;
  }
  const end = packed(
    ...[[0x06054b50, 4], [0, 2], [0, 2], [files.length, 2], [files.length, 2]],
    ...[[entries.length, 4], [offset, 4], [0, 2]],
  );
  return new Blob([...parts, Uint8Array.from([...entries, ...end])], { type: "application/zip" });
}
