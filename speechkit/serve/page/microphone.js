// The microphone, as samples at the rate of the browser's sound.

const REASONS = {
  NotAllowedError: "The microphone was refused. Allow it for this page in the browser's settings.",
  NotFoundError: "There is no microphone. Connect one, or open a file.",
  NotReadableError: "The microphone is busy. Close the other program that uses it.",
};
const INSECURE =
  "The microphone works only on https pages and at http://127.0.0.1. Open a file instead.";

/** Whether this page may ask for a microphone at all. */
export const available = Boolean(navigator.mediaDevices?.getUserMedia);

/** Starts the microphone; throws an Error with one line of plain English. */
export async function start(onsamples, onended) {
  if (!available) throw new Error(INSECURE);
  // the browser's changes of the sound are for people, not for models
  const audio = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
  let media;
  try {
    media = await navigator.mediaDevices.getUserMedia({ audio });
  } catch (error) {
    throw new Error(REASONS[error.name] ?? `The microphone failed: ${error.message}`);
  }
  const [track] = media.getTracks();
  const context = new AudioContext();
  try {
    await context.resume();
    await context.audioWorklet.addModule(new URL("capture.js", import.meta.url));
  } catch (error) {
    track.stop();
    context.close();
    throw new Error(`The microphone cannot be read: ${error.message}`);
  }
  const capture = new AudioWorkletNode(context, "capture", {
    numberOfOutputs: 0,
    channelCount: 1,
    channelCountMode: "explicit",
  });
  const last = new Promise((resolve) => {
    capture.port.onmessage = ({ data }) => (data ? onsamples(data) : resolve());
  });
  context.createMediaStreamSource(media).connect(capture);
  track.onended = () => onended("The microphone was disconnected.");
  return {
    rate: context.sampleRate,
    /** Ends it after the last samples. */
    async stop() {
      capture.port.postMessage("end");
      await last;
      track.stop();
      await context.close();
    },
  };
}
