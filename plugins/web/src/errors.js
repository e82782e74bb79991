/** What every function here throws: one line with what was given and what was expected. */
export class SpeechkitError extends Error {
  name = "SpeechkitError";
}

/** Throws unless a condition holds. */
export function expect(holds, message) {
  if (!holds) throw new SpeechkitError(message);
}

/** A value in a message, cut to 40 characters. */
export function shown(value) {
  const text = typeof value === "string" ? JSON.stringify(value) : String(value);
  return text.length > 40 ? `${text.slice(0, 39)}…` : text;
}
