/* Runs a plan from C: `step PROGRAM WEIGHTS SAMPLES STRIDE`, files of int64, float32 and float32.
 * Writes the valid scores of 1-stride blocks to the standard output. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "speechkit.h"

enum { FIELDS = 18 };

static void* read_file(const char* path, size_t* bytes) {
  FILE* file = fopen(path, "rb");
  fseek(file, 0, SEEK_END);
  *bytes = (size_t)ftell(file);
  rewind(file);
  void* content = malloc(*bytes);
  if (fread(content, 1, *bytes, file) != *bytes) exit(1);
  fclose(file);
  return content;
}

static float* floats(int64_t count) {
  size_t bytes = ((size_t)count * sizeof(float) + 63) / 64 * 64;
  return memset(aligned_alloc(64, bytes), 0, bytes);
}

int main(int argc, char** argv) {
  if (argc != 5) return 1;
  size_t program_bytes, weight_bytes, sound_bytes;
  int64_t* program = read_file(argv[1], &program_bytes);
  float* weights = read_file(argv[2], &weight_bytes);
  float* sound = read_file(argv[3], &sound_bytes);
  char error[300];
  speechkit_plan* plan =
      speechkit_open(program, (int64_t)(program_bytes / sizeof *program / FIELDS), weights,
                     (int64_t)(weight_bytes / sizeof *weights), atoll(argv[4]), 1, 1, NULL, error,
                     sizeof error);
  if (!plan) {
    fprintf(stderr, "%s\n", error);
    return 1;
  }
  speechkit_sizes sizes;
  speechkit_get_sizes(plan, &sizes);
  float *state = floats(sizes.state), *scratch = floats(sizes.scratch);
  float* y = floats(sizes.rows_out * sizes.channels_out);
  bool* valid = calloc((size_t)sizes.rows_out, sizeof *valid);
  speechkit_start(plan, state);
  int64_t samples = (int64_t)(sound_bytes / sizeof *sound);
  for (int64_t at = 0; at + sizes.rows_in <= samples; at += sizes.rows_in) {
    speechkit_step(plan, state, scratch, 1, 1, NULL, &sizes.rows_in, sound + at, sizes.rows_in, y,
                   valid, NULL);
    for (int64_t r = 0; r < sizes.rows_out; ++r)
      if (valid[r])
        fwrite(y + r * sizes.channels_out, sizeof *y, (size_t)sizes.channels_out, stdout);
  }
  speechkit_close(plan);
  return 0;
}
