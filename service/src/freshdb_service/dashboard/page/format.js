// Formats of numbers, durations, sizes and instants.

const NUMBERS = new Intl.NumberFormat("en");
const MINUTE = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const LONG = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "long" });

export const number = (value) => NUMBERS.format(value);

/** Seconds as `340 µs`, `12 ms`, `1.2 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.001) return `${Math.round(seconds * 1e6)} µs`;
  if (seconds < 0.01) return `${(seconds * 1e3).toFixed(1)} ms`;
  if (seconds < 0.9995) return `${Math.round(seconds * 1e3)} ms`;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  return whole(seconds);
}

/** A duration in whole seconds, for running times: `0 s`, `12 s`, `3 min 20 s`. */
export function whole(seconds) {
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  let left = Math.max(0, Math.round(seconds));
  const first = units.findIndex(([, size]) => left >= size);
  if (first < 0) return "0 s";
  return units.slice(first, first + 2).map(([unit, size]) => {
    const count = Math.floor(left / size);
    left -= count * size;
    return count ? `${count} ${unit}` : "";
  }).filter(Boolean).join(" ");
}

export function bytes(value) {
  if (value === null || value === undefined) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let power = 0;
  while (value >= 1024 && power < units.length - 1) { value /= 1024; power += 1; }
  return `${power && value < 100 ? value.toFixed(1) : Math.round(value)} ${units[power]}`;
}

export const minute = (instant) => MINUTE.format(new Date(instant));
export const long = (instant) => LONG.format(new Date(instant));

/** Difference between the service's and the browser's clock in milliseconds. Ages are by the service's clock. */
let skew = 0;
export function serverTime(instant) { skew = new Date(instant).getTime() - Date.now(); }
export const now = () => Date.now() + skew;

export const ago = (instant) => whole((now() - new Date(instant).getTime()) / 1000);
export const left = (instant) => {
  const seconds = (new Date(instant).getTime() - now()) / 1000;
  return seconds <= 0 ? "now" : whole(seconds);
};
