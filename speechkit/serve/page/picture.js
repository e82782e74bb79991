// Draws a stretch of a recording: the spectrogram, and below it a timeline of speech.

import { BANDS, COLUMN_S, Spectrogram } from "./spectrogram.js";

const PX_PER_S = 48;
const TIMELINE_PX = 36;
const GAP_PX = 4;
const BAR_PX = 12;
const RANGE_DB = 65;
// new columns take at most this long, so that the page answers while a long recording is drawn
const BUDGET_MS = 12;

const still = matchMedia("(prefers-reduced-motion: reduce)");
const dark = matchMedia("(prefers-color-scheme: dark)");

/** Minutes and seconds: 1:05, or 1:05.20 with two places. */
export function clock(time_s, places = 0) {
  const rounded_s = Number(time_s.toFixed(places));
  const seconds = (rounded_s % 60).toFixed(places).padStart(places ? places + 3 : 2, "0");
  return `${Math.floor(rounded_s / 60)}:${seconds}`;
}

export class Picture {
  #canvas;
  #image = document.createElement("canvas");
  #listening = null;
  #spectrogram = null;
  #start_s = null;
  #asked = false;
  #colours;
  /** Called when the visible stretch changes, with its start and the latest start in seconds. */
  onmove = () => {};

  constructor(canvas) {
    this.#canvas = canvas;
    this.#colours = coloursOf(canvas);
    dark.addEventListener("change", () => {
      this.#colours = coloursOf(canvas);
      this.refresh();
    });
    new ResizeObserver(() => this.refresh()).observe(canvas);
  }

  show(listening) {
    this.#listening = listening;
    this.#spectrogram = new Spectrogram(listening.recording);
    this.#start_s = null;
    this.refresh();
  }

  /** Shows the stretch that starts at a time; from the latest start on, it follows the sound. */
  moveTo(start_s) {
    this.#start_s = start_s < this.#latest_s ? Math.max(0, start_s) : null;
    this.refresh();
  }

  /** Draws soon. */
  refresh() {
    if (this.#asked) return;
    this.#asked = true;
    requestAnimationFrame(() => {
      this.#asked = false;
      this.#draw();
    });
  }

  get view_s() {
    return this.#canvas.clientWidth / PX_PER_S;
  }

  get #latest_s() {
    const rest_s = Math.max(0, (this.#listening?.recording.duration_s ?? 0) - this.view_s);
    // without motion it moves on by half its width at a time
    const step_s = this.view_s / 2;
    return still.matches ? Math.ceil(rest_s / step_s) * step_s : rest_s;
  }

  #draw() {
    const { clientWidth: width, clientHeight: height } = this.#canvas;
    if (!width) return;
    this.#canvas.width = width * devicePixelRatio;
    this.#canvas.height = height * devicePixelRatio;
    const draw = this.#canvas.getContext("2d");
    draw.scale(devicePixelRatio, devicePixelRatio);
    const start_s = this.#start_s ?? this.#latest_s;
    const top = height - TIMELINE_PX;
    draw.fillStyle = this.#colours.quiet;
    draw.fillRect(0, 0, width, top);
    draw.fillRect(0, top + GAP_PX, width, BAR_PX);
    if (this.#listening) {
      this.#drawSound(draw, start_s, top);
      this.#drawSpeech(draw, start_s, width, top);
    }
    this.#drawTimes(draw, start_s, width, height);
    this.onmove(start_s, this.#latest_s);
  }

  #drawSound(draw, start_s, height) {
    const first = Math.floor(start_s / COLUMN_S);
    const count = Math.ceil(this.view_s / COLUMN_S) + 1;
    const began_ms = performance.now();
    const columns = [];
    for (let i = 0; i < count; i++) {
      if (!this.#spectrogram.has(first + i) && performance.now() - began_ms > BUDGET_MS) {
        this.refresh();
        break;
      }
      columns.push(this.#spectrogram.column(first + i));
    }
    const pixels = new ImageData(count, BANDS);
    const quietest_db = this.#spectrogram.loudest_db - RANGE_DB;
    columns.forEach((levels_db, x) =>
      levels_db?.forEach((level_db, band) => {
        const level = Math.max(0, Math.round((255 * (level_db - quietest_db)) / RANGE_DB));
        const at = 4 * ((BANDS - 1 - band) * count + x);
        pixels.data.set(this.#colours.levels[level], at);
      }),
    );
    this.#image.width = count;
    this.#image.height = BANDS;
    this.#image.getContext("2d").putImageData(pixels, 0, 0);
    const left = (first * COLUMN_S - start_s) * PX_PER_S;
    draw.drawImage(this.#image, left, 0, count * COLUMN_S * PX_PER_S, height);
  }

  #drawSpeech(draw, start_s, width, top) {
    const { segments, recording } = this.#listening;
    for (const segment of segments) {
      const left = (segment.start_s - start_s) * PX_PER_S;
      const right = ((segment.end_s ?? recording.duration_s) - start_s) * PX_PER_S;
      if (right < 0 || left > width) continue;
      draw.fillStyle = this.#colours.tint;
      draw.fillRect(left, 0, right - left, top);
      draw.fillStyle = this.#colours.speech;
      draw.beginPath();
      draw.roundRect(left, top + GAP_PX, Math.max(2, right - left), BAR_PX, 3);
      draw.fill();
    }
  }

  #drawTimes(draw, start_s, width, height) {
    const every_s = this.view_s > 12 ? 5 : 2;
    draw.font = `11px ${getComputedStyle(this.#canvas).fontFamily}`;
    draw.fillStyle = this.#colours.muted;
    draw.textBaseline = "bottom";
    for (let n = Math.ceil(start_s / every_s); n * every_s < start_s + this.view_s; n++) {
      const x = (n * every_s - start_s) * PX_PER_S;
      const label = clock(n * every_s);
      const label_px = draw.measureText(label).width;
      draw.textAlign = x < label_px / 2 ? "left" : "center";
      if (x + label_px / 2 < width) draw.fillText(label, x, height);
    }
  }
}

/** The colours of the style sheet; `levels` are 256 from quiet to loud as bytes. */
function coloursOf(element) {
  const style = getComputedStyle(element);
  const value = (name) => style.getPropertyValue(name).trim();
  const ramp = ["--quiet", "--middle", "--loud"].map(value);
  const stops = ramp.map((colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16)));
  const levels = Array.from({ length: 256 }, (_, i) => {
    const at = (i / 255) * (stops.length - 1);
    const low = Math.min(Math.floor(at), stops.length - 2);
    return [...stops[low].map((x, c) => x + (stops[low + 1][c] - x) * (at - low)), 255];
  });
  return { quiet: ramp[0], levels, tint: value("--tint"), speech: value("--speech"), muted: value("--muted") };
}
