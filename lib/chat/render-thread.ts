/** What goes to the rendering thread. */
export interface RenderJob {
  readonly source: string;
  readonly variables: Record<string, unknown>;
  /** Milliseconds since the epoch that strftime_now shows; null for the clock. */
  readonly now: number | null;
}

/** What comes back; `kind` says who is to blame for a failure. */
export type RenderAnswer =
  | { readonly ok: true; readonly text: string }
  | { readonly ok: false; readonly kind: 'raised' | 'syntax' | 'failed' | 'limit'; readonly message: string };

/** Options of the thread, given once. */
export interface RenderThreadData {
  /** Absolute path of @huggingface/jinja. */
  readonly jinja: string;
  readonly maxOutputLength: number;
  readonly maxRange: number;
}

/**
 * Source of the rendering thread. It is a string so that the same thread starts from compiled files and from sources under a
 * test runner; nothing of a model or a request ever becomes part of it. Globals are those transformers gives templates
 * (raise_exception, strftime_now), with a bounded range().
 */
export const RENDER_THREAD_SOURCE = String.raw`'use strict';
const { parentPort, workerData } = require('node:worker_threads');
const { Environment, Interpreter, tokenize, parse } = require(workerData.jinja);

class Raised extends Error {}
class Limit extends Error {}

const programs = new Map();
function programOf(source) {
  let program = programs.get(source);
  if (program === undefined) {
    program = parse(tokenize(source, { lstrip_blocks: true, trim_blocks: true }));
    if (programs.size >= 8) programs.delete(programs.keys().next().value);
    programs.set(source, program);
  }
  return program;
}

function range(...args) {
  const numbers = args.filter((value) => typeof value === 'number');
  const [start, stop, step] = numbers.length > 1 ? [numbers[0], numbers[1], numbers[2] ?? 1] : [0, numbers[0], 1];
  if (![start, stop, step].every(Number.isInteger) || step === 0) throw new Error('range() takes integers and a step that is not 0');
  const count = Math.max(0, Math.ceil((stop - start) / step));
  if (count > workerData.maxRange) throw new Limit('range() of ' + count + ' numbers; at most ' + workerData.maxRange + ' are allowed');
  return Array.from({ length: count }, (_, i) => start + i * step);
}

const MONTHS = ['January', 'February', 'March', 'April', 'May', 'June', 'July', 'August', 'September', 'October', 'November', 'December'];
const DAYS = ['Sunday', 'Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday'];
function strftime(date, format) {
  const two = (value) => String(value).padStart(2, '0');
  const parts = {
    Y: () => String(date.getFullYear()), m: () => two(date.getMonth() + 1), d: () => two(date.getDate()), y: () => two(date.getFullYear() % 100),
    B: () => MONTHS[date.getMonth()], b: () => MONTHS[date.getMonth()].slice(0, 3), A: () => DAYS[date.getDay()], a: () => DAYS[date.getDay()].slice(0, 3),
    H: () => two(date.getHours()), M: () => two(date.getMinutes()), S: () => two(date.getSeconds()), I: () => two(date.getHours() % 12 || 12),
    p: () => (date.getHours() < 12 ? 'AM' : 'PM'), '%': () => '%',
  };
  return String(format).replace(/%(.)/g, (directive, name) => (Object.hasOwn(parts, name) ? parts[name]() : directive));
}

function environmentFor(job) {
  const env = new Environment();
  const globals = {
    true: true, false: false, none: null, True: true, False: false, None: null, range,
    raise_exception: (message) => { throw new Raised(String(message)); },
    strftime_now: (format) => strftime(job.now === null ? new Date() : new Date(job.now), format),
  };
  for (const [name, value] of Object.entries(globals)) env.set(name, value);
  for (const [name, value] of Object.entries(job.variables)) env.set(name, value);
  return env;
}

function render(job) {
  let program;
  try {
    program = programOf(job.source);
  } catch (error) {
    return { ok: false, kind: error instanceof RangeError ? 'limit' : 'syntax', message: String(error.message) };
  }
  try {
    const text = new Interpreter(environmentFor(job)).run(program).value;
    if (text.length > workerData.maxOutputLength) throw new Limit('a text of ' + text.length + ' characters; at most ' + workerData.maxOutputLength + ' are allowed');
    return { ok: true, text };
  } catch (error) {
    const kind = error instanceof Raised ? 'raised' : error instanceof Limit || error instanceof RangeError ? 'limit' : 'failed';
    return { ok: false, kind, message: String(error && error.message).slice(0, 2000) };
  }
}

parentPort.on('message', (job) => parentPort.postMessage(render(job)));
parentPort.postMessage('ready');
`;
