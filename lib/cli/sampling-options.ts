import { Option, type Command } from 'commander';
import type { SamplingParams } from '../sampling/params';
import { integer, number } from './numbers';

interface SamplingFlag {
  readonly name: keyof SamplingParams;
  readonly flags: string;
  readonly help: string;
  readonly parse?: (text: string) => unknown;
}

/** Ranges are the library's to check (ERR_KVASIR_PARAMS); here only what cannot be read as a number is refused. */
const FLAGS: readonly SamplingFlag[] = [
  { name: 'maxTokens', flags: '--max-tokens <n>', help: "Most tokens to generate (default: the model's own, else 256).", parse: integer(0) },
  { name: 'minTokens', flags: '--min-tokens <n>', help: 'Fewest tokens to generate before an end is allowed.', parse: integer(0) },
  { name: 'temperature', flags: '--temperature <t>', help: 'Randomness; 0 always takes the likeliest token.', parse: number },
  { name: 'topP', flags: '--top-p <p>', help: 'Sample from the likeliest tokens that together have this probability.', parse: number },
  { name: 'topK', flags: '--top-k <k>', help: 'Sample from the k likeliest tokens; 0 is off.', parse: integer(-1) },
  { name: 'minP', flags: '--min-p <p>', help: 'Leave out tokens less likely than this share of the likeliest.', parse: number },
  { name: 'presencePenalty', flags: '--presence-penalty <x>', help: 'Penalty for tokens that were generated before.', parse: number },
  { name: 'frequencyPenalty', flags: '--frequency-penalty <x>', help: 'Penalty for each time a token was generated before.', parse: number },
  { name: 'repetitionPenalty', flags: '--repetition-penalty <x>', help: 'Divisor for tokens in prompt or output; 1 is off.', parse: number },
  { name: 'seed', flags: '--seed <s>', help: 'Seed of each request, for the same answer every time.', parse: integer(0) },
  { name: 'stop', flags: '--stop <text...>', help: 'Texts that end the answer.' },
  { name: 'ignoreEos', flags: '--ignore-eos', help: "Do not end at the model's end-of-sequence token." },
];

const OUTPUT_FLAGS: readonly SamplingFlag[] = [
  { name: 'n', flags: '-n, --n <n>', help: 'Answers for each prompt.', parse: integer(1) },
  { name: 'logprobs', flags: '--logprobs <k>', help: 'With --json: log probabilities of the k likeliest tokens at each position.', parse: integer(0) },
];

/** Used where neither the command line, the input nor the model's generation_config.json says how long an answer may be. */
const DEFAULT_MAX_TOKENS = 256;

/** Adds the sampling flags; `withOutputFlags` also those that only make sense for whole results. */
export function addSamplingOptions(command: Command, withOutputFlags: boolean): Command {
  for (const flag of [...FLAGS, ...(withOutputFlags ? OUTPUT_FLAGS : [])]) {
    const option = new Option(flag.flags, flag.help).helpGroup('Sampling options:');
    command.addOption(flag.parse ? option.argParser(flag.parse) : option);
  }
  return command;
}

/** The sampling parameters of a command line over the model's own defaults. */
export function samplingParams(given: Readonly<Record<string, unknown>>, modelDefaults: SamplingParams): SamplingParams {
  const params: Record<string, unknown> = { ...modelDefaults, maxTokens: modelDefaults.maxTokens ?? DEFAULT_MAX_TOKENS };
  for (const { name } of [...FLAGS, ...OUTPUT_FLAGS]) {
    if (given[name] !== undefined) params[name] = given[name];
  }
  return params as SamplingParams;
}
