import { Command } from 'commander';
import { addEngineOptions, engineArgs } from '../../lib/cli/engine-options';
import { addSamplingOptions, samplingParams } from '../../lib/cli/sampling-options';
import { cliFlag, ENGINE_OPTIONS } from '../../lib/config/options';

function parse(argv: string[], build: (command: Command) => Command): Record<string, unknown> {
  const command = build(new Command().exitOverride().configureOutput({ writeErr: () => {}, writeOut: () => {} }));
  command.parse(argv, { from: 'user' });
  return command.opts();
}

const engine = (argv: string[], skip: Parameters<typeof addEngineOptions>[1] = []): unknown =>
  engineArgs('m', parse(argv, (command) => addEngineOptions(command, skip)), skip);

describe('engine flags', () => {
  test('what is not given is left to the library', () => {
    expect(engine([])).toEqual({ model: 'm' });
  });

  test('every option but the model has a flag that arrives under its name', () => {
    for (const row of ENGINE_OPTIONS.filter((option) => option.name !== 'model')) {
      const value = row.type === 'boolean' ? true : row.type === 'enum' ? row.choices.at(-1)! : row.type === 'string' ? 'text' : row.min;
      const argv = row.type === 'boolean' ? [cliFlag(row.name)] : [cliFlag(row.name), String(value)];
      expect(engine(argv)).toEqual({ model: 'm', [row.name]: value });
    }
  });

  test('switches have a --no- form', () => {
    expect(engine(['--no-enable-prefix-caching'])).toEqual({ model: 'm', enablePrefixCaching: false });
  });

  test.each([['--max-num-seqs', '0'], ['--max-num-seqs', '1.5'], ['--max-num-seqs', ''], ['--device', 'tpu'], ['--no-such-flag', '1']])('%s %s is refused', (...argv) => {
    expect(() => engine(argv)).toThrow(expect.objectContaining({ code: expect.stringMatching(/^commander\./) }));
  });

  test('a skipped option has no flag', () => {
    expect(() => engine(['--seed', '1'], ['seed'])).toThrow(expect.objectContaining({ code: 'commander.unknownOption' }));
  });
});

describe('sampling flags', () => {
  const sampling = (argv: string[], defaults = {}): unknown =>
    samplingParams(parse(argv, (command) => addSamplingOptions(command, true)), defaults);

  test("stand over the model's defaults", () => {
    const defaults = { temperature: 0.8, topP: 0.95, maxTokens: 400 };
    expect(sampling([], defaults)).toEqual(defaults);
    expect(sampling(['--temperature', '0', '--max-tokens', '5'], defaults)).toEqual({ temperature: 0, topP: 0.95, maxTokens: 5 });
  });

  test('an answer is at most 256 tokens long when nobody says otherwise', () => {
    expect(sampling([])).toEqual({ maxTokens: 256 });
  });

  test('all arrive as numbers, texts and switches', () => {
    const argv = '--top-p 0.5 --top-k 3 --min-p 0.1 --presence-penalty -1 --seed 9 --logprobs 2 --ignore-eos -n 2 --stop a b'.split(' ');
    expect(sampling(argv)).toEqual({
      maxTokens: 256, topP: 0.5, topK: 3, minP: 0.1, presencePenalty: -1, seed: 9, logprobs: 2, ignoreEos: true, n: 2, stop: ['a', 'b'],
    });
  });

  test('what is no number is refused', () => {
    expect(() => sampling(['--temperature', 'hot'])).toThrow(expect.objectContaining({ code: 'commander.invalidArgument' }));
  });
});
