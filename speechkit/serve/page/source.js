// Where the events of the page come from. The page without a server has another file here.

export { models, open, PLACE } from "./socket.js";
