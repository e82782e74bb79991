// Rounding as in Python, where halves go to the even neighbour.

/** The nearest whole number. */
export function whole(x) {
  const low = Math.floor(x), over = x - low;
  return over < 0.5 || (over === 0.5 && low % 2 === 0) ? low : low + 1;
}

/** The nearest millionth. */
export function micro(x) {
  // only multiples of 1/128 lie exactly between two millionths
  return Number.isInteger(x * 128) ? whole(x * 1e6) / 1e6 : Number(x.toFixed(6));
}
