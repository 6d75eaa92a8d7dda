// Numbers and times as people read them.

/** A probability in percent; never 100 % where it is less. */
export function share(probability) {
  if (probability === null || probability === undefined) return "";
  const percent = 100 * probability;
  if (percent > 99.9 && percent < 100) return "> 99.9 %";
  if (percent < 0.1 && percent > 0) return "< 0.1 %";
  return `${percent.toFixed(1)} %`;
}

/** How long ago a time was. */
export function since(time) {
  const seconds = Math.max(0, (Date.now() - new Date(time)) / 1000);
  const steps = [[86_400, "day"], [3600, "hour"], [60, "minute"]];
  for (const [length, unit] of steps) {
    const count = Math.floor(seconds / length);
    if (count) return `${count} ${unit}${count > 1 ? "s" : ""} ago`;
  }
  return "just now";
}

/** An area in square millimetres, from square micrometres. */
export const squareMillimetres = (area) => `${(area / 1e6).toLocaleString("en", { maximumSignificantDigits: 3 })} mm²`;

export const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;
