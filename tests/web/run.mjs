// Runs sessions for test_web.py: a JSON list of jobs on standard input, their events and scores on
// standard output.
import { readFileSync } from "node:fs";

import { load } from "../../plugins/web/index.js";

async function run({ plan, sound, blocks, int16, ...options }) {
  const scores = [];
  try {
    const session = await load(plan, { ...options, onScores: (row) => scores.push(Array.from(row)) });
    const bytes = readFileSync(sound), Numbers = int16 ? Int16Array : Float32Array;
    const samples = new Numbers(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
    const events = [];
    for (let at = 0, i = 0; at < samples.length; at += blocks[i++ % blocks.length])
      events.push(...session.feed(samples.subarray(at, at + blocks[i % blocks.length])));
    events.push(...session.finish());
    const { sampleRate, latencyS } = session;
    return { events, scores, sampleRate, latencyS };
  } catch (error) {
    return { error: `${error.name}: ${error.message}` };
  }
}

const found = [];
for (const job of JSON.parse(readFileSync(0, "utf8"))) found.push(await run(job));
process.stdout.write(JSON.stringify(found));
