// Updates of the page: the event stream, and refresh at a limited rate.

import { address, headers, problemOf } from "./api.js";

const LONGEST_MS = 15000;

/** Delay before the next retry, with jitter, so that pages do not all retry at once. */
const pause = (failures, first) => Math.min(LONGEST_MS, first * 2 ** (failures - 1)) * (0.75 + Math.random() / 2);

/** Follows `GET /v1/events` and resumes after the last event. It uses fetch, because an EventSource cannot send a token. */
export class Stream {
  constructor({ onEvent, onState }) {
    Object.assign(this, { onEvent, onState, last: null, failures: 0, running: null, timer: 0 });
  }

  start() {
    if (this.running) return;
    clearTimeout(this.timer);
    const control = new AbortController();
    this.running = control;
    this.follow(control).finally(() => { if (this.running === control) this.running = null; });
  }

  /** Stop while the page is hidden. The page then fetches everything again, so old events are not needed. */
  stop() {
    clearTimeout(this.timer);
    this.running?.abort();
    Object.assign(this, { running: null, last: null });
  }

  async follow(control) {
    let wait = 0;
    try {
      const answer = await fetch(address("/v1/events", { since: this.last }), {
        signal: control.signal, headers: headers({ Accept: "text/event-stream" }), cache: "no-store", credentials: "omit",
      });
      if (!answer.ok) throw await problemOf(answer);
      await this.read(answer.body.getReader());
    } catch (error) {
      if (control.signal.aborted) return;
      if (error.status === 401 || error.status === 403) { this.onState("refused"); return; }
      wait = (error.retryAfterSeconds ?? 0) * 1000;
    }
    if (control.signal.aborted) return;
    this.failures += 1;
    this.onState("reconnecting");
    this.timer = setTimeout(() => this.start(), Math.max(wait, pause(this.failures, 500)));
  }

  async read(reader) {
    const decoder = new TextDecoder();
    let text = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      this.failures = 0;
      this.onState("live");
      text += decoder.decode(value, { stream: true });
      const blocks = text.split("\n\n");
      text = blocks.pop();
      for (const block of blocks) this.dispatch(block);
    }
  }

  dispatch(block) {
    const said = {};
    for (const line of block.split("\n")) {
      const at = line.indexOf(": ");
      if (at > 0) said[line.slice(0, at)] = line.slice(at + 2);
    }
    if (!said.id) return;
    this.last = said.id;
    this.onEvent({ id: said.id, event: said.event, data: JSON.parse(said.data) });
  }
}

/** Runs `load` periodically and on request, one at a time, with a minimum gap, and with backoff after failures. */
export class Refresher {
  constructor(load, { everyMs = 5000, gapMs = 1000 } = {}) {
    Object.assign(this, { load, everyMs, gapMs, timer: 0, due: Infinity, busy: false, failures: 0, ended: 0, took: 0 });
  }

  /** Refresh soon, because something has changed. */
  request() {
    const gap = this.failures ? Infinity : Math.max(this.gapMs, 4 * this.took);
    this.schedule(Math.max(0, this.ended + gap - performance.now()));
  }

  /** Refresh immediately. */
  now() {
    this.failures = 0;
    this.schedule(0);
  }

  stop() {
    clearTimeout(this.timer);
    this.due = Infinity;
    this.load = null;
  }

  /** Pause until `resume`, while the page is hidden. */
  suspend() {
    clearTimeout(this.timer);
    this.suspended = true;
  }

  resume() {
    this.suspended = false;
    this.due = Infinity;
    this.now();
  }

  schedule(wait) {
    const due = performance.now() + wait;
    if (!this.load || this.busy || this.suspended) { this.again = true; return; }
    if (due >= this.due) return;
    clearTimeout(this.timer);
    this.due = due;
    this.timer = setTimeout(() => this.run(), wait);
  }

  async run() {
    this.busy = true;
    this.again = false;
    const began = performance.now();
    const well = await this.load();
    Object.assign(this, { busy: false, due: Infinity, ended: performance.now(), took: performance.now() - began });
    this.failures = well ? 0 : this.failures + 1;
    if (!this.load) return;
    this.schedule(well ? this.everyMs : pause(this.failures, 1000));
    if (well && this.again) this.request();
  }
}
