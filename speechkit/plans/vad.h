// The rule of speechkit/rules/vad.py for many sessions at once.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

// The arguments of `speech_edges`: logits y [sessions, frames, 2], of which only those where `valid`
// are read, and, of each row, thresholds [capacity, 2] (onset, offset), lengths [capacity, 6] (shortest,
// gap, before, after, longest, levels) and states [capacity, 7] (frames, began, ended, speaking, edge,
// pause, level). `rows` gives the row of each session.
struct SpeechFrames {
  const double* thresholds;
  const int64_t* lengths;
  int64_t* states;
  int64_t* edges;
  const float* y;
  const bool* valid;
  const int64_t* rows;
  int64_t sessions, frames;
};

// The rule of speechkit/rules/vad.py over frames of two logits. Writes each edge as (session, frame of
// this call, frame of the session where it lies, whether speech starts), at most three per frame in any
// state, and returns their number.
extern "C" int64_t speech_edges(const SpeechFrames* all) {
  const int64_t frames = all->frames;
  int64_t found = 0;
  for (int64_t s = 0; s < all->sessions; ++s) {
    const int64_t row = all->rows[s], *lengths = all->lengths + 6 * row;
    const double onset = all->thresholds[2 * row], offset = all->thresholds[2 * row + 1];
    const int64_t shortest = lengths[0], gap = lengths[1], before = lengths[2], after = lengths[3],
                  longest = lengths[4], levels = lengths[5];
    int64_t* state = all->states + 7 * row;
    int64_t &now = state[0], &began = state[1], &ended = state[2], &speaking = state[3],
            &edge = state[4], &pause = state[5], &level = state[6];
    for (int64_t f = 0; f < frames; ++f) {
      if (!all->valid[s * frames + f]) continue;
      const float* logits = all->y + 2 * (s * frames + f);
      const double top = std::max(logits[0], logits[1]);
      const double other = std::exp(logits[0] - top), speech = std::exp(logits[1] - top);
      const double probability = speech / (other + speech);
      const auto write = [&](bool starts) {
        const int64_t written[4] = {s, f, edge, starts};
        std::memcpy(all->edges + 4 * found++, written, sizeof written);
      };
      if (began < 0 && probability >= onset) {
        began = now;
      } else if (began >= 0 && probability < offset) {
        if (now - began >= shortest) ended = now;
        began = -1;
      }
      if (speaking && 2 * (now - edge) >= longest) {
        const int64_t here = std::min(int64_t(probability * double(levels)), levels - 1);
        if (pause < 0 || here <= level) pause = now, level = here;
      }
      if (began >= 0 && now + 1 - began >= shortest) {
        ended = -1;
        if (!speaking) {
          speaking = 1, edge = std::max(edge, began - before), pause = -1;
          write(true);
        }
      } else if (began < 0 && speaking && now + 1 - ended >= gap) {
        speaking = 0, edge = ended + after;
        write(false);
      }
      if (speaking && now + 1 - edge >= longest) {
        speaking = ended < 0 || pause < ended;
        edge = speaking ? pause : std::min(pause, ended + after);
        write(false);
        if (speaking) write(true);
        pause = -1;
      }
      ++now;
    }
  }
  return found;
}
