// The microphone of a page: an AudioWorklet posts its samples to a session in the page's thread.

import { expect } from "./errors.js";
import { load } from "./session.js";

/** The sound as it is, as models were trained on it. */
const PLAIN = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };

/** Opens the microphone and a session of a plan at its rate; see index.d.ts. */
export async function listen(source, { onEvent, onSamples, audio = PLAIN, ...options } = {}) {
  const devices = navigator.mediaDevices;
  expect(devices, "this page gets no microphone; serve it over https or from localhost");
  const stream = await devices.getUserMedia({ audio }).catch((error) =>
    expect(false, `the microphone cannot be opened: ${error.message}; allow it for this page`),
  );
  const context = new AudioContext();
  const close = async () => {
    for (const track of stream.getTracks()) track.stop();
    await context.close();
  };
  try {
    const session = await load(source, { ...options, sampleRate: context.sampleRate });
    await context.audioWorklet.addModule(new URL("./worklet.js", import.meta.url));
    const node = new AudioWorkletNode(context, "speechkit-microphone", {
      ...{ numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" },
    });
    const tell = (events) => events.forEach((event) => onEvent?.(event));
    const ended = new Promise((resolve, reject) => {
      node.port.onmessage = ({ data }) => {
        if (data === null) return resolve();
        try {
          onSamples?.(data);
          tell(session.feed(data));
        } catch (error) {
          node.port.onmessage = null;
          reject(error);
          throw error;
        }
      };
    });
    // nobody may wait for it before `stop`
    ended.catch(close);
    const microphone = context.createMediaStreamSource(stream);
    microphone.connect(node);
    await context.resume();
    const stop = async () => {
      node.port.postMessage(null);
      await ended;
      microphone.disconnect();
      await close();
      tell(session.finish());
    };
    return { session, stop };
  } catch (error) {
    await close();
    throw error;
  }
}
