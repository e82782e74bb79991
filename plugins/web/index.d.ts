/** A URL, a path (in node), or the bytes of a file. */
export type Source = string | URL | ArrayBuffer | ArrayBufferView;

/** A word, its times in seconds from the first sample, and its score from 0 to 1. */
export interface Word {
  text: string;
  start_s: number;
  end_s: number;
  score: number;
}

/** All times are in seconds from the first sample, rounded to a millionth. */
export interface Timed {
  /** When it happens in the sound. */
  at_s: number;
  /** How much sound had come when it was known. */
  decided_s: number;
}

/** Speech begins or ends. */
export interface SpeechEdge extends Timed {
  event: "speech_start" | "speech_end";
}

/** A label of a classifier was detected, with this probability. */
export interface Keyword extends Timed {
  event: "keyword";
  label: string;
  score: number;
}

/** The text since the last `final`; its beginning `stable` does not change any more. */
export interface Partial extends Timed {
  event: "partial";
  text: string;
  stable: string;
}

/** The text of a segment that has ended, and its words. */
export interface Final extends Timed {
  event: "final";
  text: string;
  words: Word[];
}

/** The events that `speechkit listen --json` prints, without `ready` and `end`. */
export type Event = SpeechEdge | Keyword | Partial | Final;

/** How probabilities become segments of speech (docs/listening.md). */
export interface PostProcessing {
  onset: number;
  offset: number;
  min_speech_ms: number;
  min_silence_ms: number;
  pad_onset_ms: number;
  pad_offset_ms: number;
  max_speech_s: number | null;
}

/** When a label is detected. `window_s` is the plan's and cannot be changed. */
export interface Spotting {
  window_s: number;
  threshold: number;
  hold_ms: number;
  pause_ms: number;
  silent: string[];
}

/** When a text is final. */
export interface Endpointing {
  silence_before_s: number;
  silence_after_s: number;
  longest_s: number;
  least_score: number;
}

type Some<T> = { [Name in keyof T]?: T[Name] };

export interface Options {
  /** The rate of the samples in hertz; the model's if it is left out. */
  sampleRate?: number;
  /** For text: the plan of a detector. Text is returned only where it finds speech. */
  vad?: Source;
  /** Called for each frame with its scores: logits, or log-probabilities with the blank last. */
  onScores?: (scores: Float32Array) => void;
  /** Numbers that replace those of the plan's rules. A lower `onset` also lowers `offset`, unless that is given. */
  postprocess?: Some<PostProcessing>;
  spotting?: Some<Spotting>;
  endpointing?: Some<Endpointing>;
  /** The module, if it is not at dist/speechkit.wasm in this package. */
  wasm?: Source | WebAssembly.Module;
}

/** Takes samples as they come; the events do not depend on how many come at a time. */
export interface Session {
  /** The names of the scores. */
  readonly labels: string[];
  /** The rate of the samples in hertz. */
  readonly sampleRate: number;
  /** The time from one frame of scores to the next. */
  readonly frameS: number;
  /** The sound needed after the beginning of a frame until its score is returned. */
  readonly latencyS: number;
  /** The scores of the latest frame, or null before the first. */
  readonly scores: Float32Array | null;
  /** The events after the next samples: one channel in [-1, 1], or of 16 bits. */
  feed(samples: Float32Array | Int16Array): Event[];
  /** The remaining events. Afterwards the session takes no more samples. */
  finish(): Event[];
}

/** A session of a plan. It throws SpeechkitError where a file or an option cannot be used. */
export function load(plan: Source, options?: Options): Promise<Session>;

export interface ListenOptions extends Omit<Options, "sampleRate"> {
  /** Called for each event. */
  onEvent?: (event: Event) => void;
  /** Called for each block of the microphone's samples, 20 ms, before its events. */
  onSamples?: (samples: Float32Array) => void;
  /** Constraints of `getUserMedia`. The default turns off echo cancellation, noise suppression and
   * gain control. */
  audio?: MediaTrackConstraints;
}

export interface Listening {
  readonly session: Session;
  /** Closes the microphone, after the events of its last samples. It throws what stopped it early. */
  stop(): Promise<void>;
}

/** Opens the page's microphone and gives its sound to a session. */
export function listen(plan: Source, options?: ListenOptions): Promise<Listening>;

/** What is thrown: one line with what was given and what was expected. */
export class SpeechkitError extends Error {}
