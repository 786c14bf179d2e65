import { Command } from 'commander';
import { addEngineOptions } from './engine-options';
import type { CliIo } from './io';
import { integer } from './numbers';
import { addPluginOption } from './plugins';
import { addSamplingOptions } from './sampling-options';
import { packageVersion } from '../utils/version';

// Commands are required when they run, not before: `kvasir --help` must not load the engine.
/* eslint-disable @typescript-eslint/no-require-imports */

type Given = Record<string, unknown>;

/** The whole command line. A command leaves its exit code in `result.code`. */
export function buildProgram(io: CliIo, result: { code: number }): Command {
  const program = new Command('kvasir')
    .description('Runs large language models in Node.js: text generation, chat and benchmarks.')
    .version(packageVersion(), '-V, --version')
    .exitOverride()
    .configureOutput({
      writeOut: (text) => void io.stdout.write(text),
      writeErr: (text) => void io.stderr.write(text),
    })
    .showHelpAfterError('Run with --help for usage.');
  addGenerate(program, io);
  addChat(program, io);
  addBench(program, io);
  addDoctor(program, io, result);
  addBuild(program, result);
  return program;
}

function withVerbose(command: Command): Command {
  return command.option('--verbose', 'Print the stack of an error.');
}

function addGenerate(program: Command, io: CliIo): void {
  const command = program
    .command('generate <model>')
    .description('Continue one prompt, or every prompt of a file.')
    .option('-p, --prompt <text>', 'The prompt.')
    .option('-i, --input <file>', 'A file with one JSON object a line: {"prompt": "..."} or {"promptTokenIds": [...]}, and "params" if wanted.')
    .option('--json', 'Print one JSON object for each request, in the order of the input, and nothing else.');
  addSamplingOptions(withVerbose(command), true);
  // --seed is the request's here: an engine seed would change nothing for requests that have one.
  addPluginOption(addEngineOptions(command, ['seed']));
  command.action(async (model: string, given: Given) => {
    if ((given.prompt === undefined) === (given.input === undefined)) {
      command.error('error: expected exactly one of --prompt and --input', { exitCode: 2 });
    }
    const { generate } = require('./generate') as typeof import('./generate');
    await generate(model, given, io);
  });
}

function addChat(program: Command, io: CliIo): void {
  const command = program
    .command('chat <model>')
    .description('Talk with a model; one message a line when stdin is no terminal. /reset forgets, /exit ends.')
    .option('--system <text>', 'System message that every conversation begins with.');
  addSamplingOptions(withVerbose(command), false);
  addPluginOption(addEngineOptions(command, ['seed']));
  command.action(async (model: string, given: Given) => {
    const { chat } = require('./chat') as typeof import('./chat');
    await chat(model, given, io);
  });
}

function addBench(program: Command, io: CliIo): void {
  const bench = program.command('bench').description('Measure speed with random prompts; a lone config.json will do with --load-format dummy.');
  const latency = bench
    .command('latency <model>')
    .description('One batch, alone: time of the prompt and tokens/s after it.')
    .option('--input-len <n>', 'Tokens of each prompt.', integer(1), 32)
    .option('--output-len <n>', 'Tokens to generate for each prompt.', integer(2), 128)
    .option('--batch-size <n>', 'Prompts in the batch.', integer(1), 1)
    .option('--num-iters <n>', 'Measured runs, of which the median counts.', integer(1), 3)
    .option('--num-iters-warmup <n>', 'Runs before that.', integer(0), 1);
  const throughput = bench
    .command('throughput <model>')
    .description('Many requests queued at once: requests/s and tokens/s.')
    .option('--input-len <n>', 'Tokens of each prompt.', integer(1), 128)
    .option('--output-len <n>', 'Tokens to generate for each prompt.', integer(1), 128)
    .option('--num-prompts <n>', 'Requests.', integer(1), 64);
  for (const command of [latency, throughput]) {
    withVerbose(command.option('--json', 'Print the result as one JSON object.'));
    addPluginOption(addEngineOptions(command));
  }
  latency.action(async (model: string, given: Given) => {
    const { benchLatency } = require('./bench') as typeof import('./bench');
    await benchLatency(model, given as unknown as Parameters<typeof benchLatency>[1], io);
  });
  throughput.action(async (model: string, given: Given) => {
    const { benchThroughput } = require('./bench') as typeof import('./bench');
    await benchThroughput(model, given as unknown as Parameters<typeof benchThroughput>[1], io);
  });
}

function addDoctor(program: Command, io: CliIo, result: { code: number }): void {
  const command = withVerbose(program.command('doctor').description('Show what Kvasir finds on this machine: Node.js, CPU, memory, native addon, CUDA devices.'));
  command.option('--json', 'Print one JSON object.').action(async (given: Given) => {
    const { doctor } = require('./doctor') as typeof import('./doctor');
    result.code = await doctor({ json: given.json === true }, io);
  });
}

function addBuild(program: Command, result: { code: number }): void {
  const command = withVerbose(program.command('build').description('Build the native addon from the sources in the package.'));
  command.option('--cuda', 'With the CUDA backend; needs nvcc on PATH.');
  command.action(async (given: Given) => {
    const { buildAddon } = require('./build') as typeof import('./build');
    result.code = await buildAddon(given.cuda === true);
  });
}
