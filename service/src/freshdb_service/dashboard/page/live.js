// What keeps the page up to date: the stream of events, and fetching again without hammering.

import { address, headers, problemOf } from "./api.js";

const LONGEST_MS = 15000;

/** How long to wait before the next try, with some chance in it, so that not all pages come back in the same moment. */
const pause = (failures, first) => Math.min(LONGEST_MS, first * 2 ** (failures - 1)) * (0.75 + Math.random() / 2);

/** Follows `GET /v1/events` (by fetch: an EventSource cannot send a token), and goes on after the last event when it breaks. */
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

  /** Nobody looks: whoever comes back fetches everything anew, and wants no old events. */
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
      for (const block of blocks) this.tell(block);
    }
  }

  tell(block) {
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

/** Runs `load` when asked to, and every so often: one at a time, not again before some time has passed, rarely while it fails. */
export class Refresher {
  constructor(load, { everyMs = 5000, gapMs = 1000 } = {}) {
    Object.assign(this, { load, everyMs, gapMs, timer: 0, due: Infinity, busy: false, failures: 0, ended: 0, took: 0 });
  }

  /** Something has changed. */
  request() {
    const gap = this.failures ? Infinity : Math.max(this.gapMs, 4 * this.took);
    this.schedule(Math.max(0, this.ended + gap - performance.now()));
  }

  /** Now, whatever was. */
  now() {
    this.failures = 0;
    this.schedule(0);
  }

  stop() {
    clearTimeout(this.timer);
    this.due = Infinity;
    this.load = null;
  }

  /** Nothing until `resume`: nobody looks. */
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
