// A source of events: sends live sound to the server, whose models return them.
//
// Every source is a module with these names. `PLACE` says where the sound goes. `models(token)`
// lists what it has, each {id, verb, rules}. `open(options)` begins a stream of sound:
//
//   feed(samples)  takes the next samples, a Float32Array at `options.rate` hertz
//   finish()       ends the sound; the last events follow
//   close()        ends the stream at once, without events
//   onevent        gets each event as `speechkit listen --json` prints it; the last one is
//                  {event: "end"} or {event: "error", message}
//   unsent_s       the seconds of sound that were fed and have not left yet

export const PLACE = "The sound goes to this server only.";

const REFUSED =
  "The server refused the connection: it is full, or it stops. Try again in a moment.";
const LOST = "The connection to the server was lost.";
const WRONG = "This is not the server's token.";
const UNSENDABLE =
  "A browser cannot send this token. Give the server one of letters and digits, as from " +
  "openssl rand -hex 32.";
// what the name of a websocket's protocol may contain (RFC 9110, token)
const SENDABLE = /^[\w!#$%&'*+.^`|~-]*$/;

/** The models of the server; throws an Error, whose `status` is 401 if a token is needed. */
export async function models(token) {
  if (!SENDABLE.test(token)) throw refused(UNSENDABLE, 401);
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const response = await fetch("v1/models", { headers }).catch(() => {
    throw new Error("The server does not answer.");
  });
  const { status } = response;
  if (status === 401) throw refused(token ? WRONG : "", status);
  const row = await response.json().catch(() => ({}));
  if (!row.data) throw refused(row.error?.message ?? `The server answered ${status}.`, status);
  return row.data;
}

const refused = (message, status) => Object.assign(new Error(message), { status });

/** A stream of sound to a model; `thresholds` are `onset` and `offset` of a detector. */
export function open({ model, rate, thresholds = {}, token }) {
  const query = new URLSearchParams({ model, encoding: "f32le", rate, ...thresholds });
  const url = new URL(`v1/listen?${query}`, document.baseURI);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  const socket = new WebSocket(url, token ? ["bearer", token] : []);
  const early = [];
  let opened = false;
  let over = false;

  const send = (message) => {
    if (opened) socket.send(message);
    else early.push(message);
  };
  const tell = (row) => {
    if (over) return;
    over = row.event === "end" || row.event === "error";
    stream.onevent(row);
  };
  socket.onopen = () => {
    opened = true;
    early.splice(0).forEach(send);
  };
  socket.onmessage = ({ data }) => {
    const row = JSON.parse(data);
    tell(row.error ? { event: "error", message: row.error.message } : row);
  };
  socket.onclose = () => tell({ event: "error", message: opened ? LOST : REFUSED });

  const stream = {
    onevent: () => {},
    feed: (samples) => send(samples),
    finish: () => send(JSON.stringify({ type: "end" })),
    close() {
      over = true;
      socket.close();
    },
    get unsent_s() {
      const waiting = early.reduce((sum, message) => sum + (message.byteLength ?? 0), 0);
      return (socket.bufferedAmount + waiting) / Float32Array.BYTES_PER_ELEMENT / rate;
    },
  };
  return stream;
}
