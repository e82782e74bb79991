export { SpeechkitError } from "./src/errors.js";
export { listen } from "./src/listen.js";
export { load } from "./src/session.js";
