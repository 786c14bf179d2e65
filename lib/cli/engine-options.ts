import { Option, type Command } from 'commander';
import { ENGINE_OPTIONS, cliFlag, type EngineArgs, type EngineOption, type OptionName } from '../config/options';
import { integer, numberWithin } from './numbers';

const GROUP_TITLES: Readonly<Record<EngineOption['group'], string>> = {
  model: 'Model options:',
  device: 'Device options:',
  scheduler: 'Scheduler options:',
  cache: 'KV cache options:',
  parallel: 'Parallelism options:',
  load: 'Loading options:',
};

/** Adds a flag for every row of the table of engine options, except the model (an argument) and those in `skip`. */
export function addEngineOptions(command: Command, skip: readonly OptionName[] = []): Command {
  for (const row of ENGINE_OPTIONS) {
    if (row.name === 'model' || skip.includes(row.name)) continue;
    for (const option of commanderOptions(row)) command.addOption(option.helpGroup(GROUP_TITLES[row.group]));
  }
  return command;
}

/** What was given on the command line, as options of LLM.create; what was not given is left out, so that the library's defaults hold. */
export function engineArgs(model: string, given: Readonly<Record<string, unknown>>, skip: readonly OptionName[] = []): EngineArgs {
  const args: Record<string, unknown> = { model };
  for (const { name } of ENGINE_OPTIONS) {
    if (name !== 'model' && !skip.includes(name) && given[name] !== undefined) args[name] = given[name];
  }
  return args as unknown as EngineArgs;
}

function commanderOptions(row: EngineOption): Option[] {
  const flag = cliFlag(row.name);
  switch (row.type) {
    case 'boolean':
      // Both forms, so that neither has an implied default: what is not given stays out of EngineArgs.
      return [
        new Option(flag, describe(row)),
        new Option(flag.replace(/^--/, '--no-'), `The opposite of ${flag}.`).hideHelp(!row.default),
      ];
    case 'enum':
      return [new Option(`${flag} <choice>`, describe(row)).choices(row.choices)];
    case 'integer':
      return [new Option(`${flag} <n>`, describe(row)).argParser(integer(row.min, row.max))];
    case 'number':
      return [new Option(`${flag} <x>`, describe(row)).argParser(numberWithin(row.min, row.max))];
    case 'string':
      return [new Option(`${flag} <text>`, describe(row))];
  }
}

/** The help of a row; rows whose default is derived say so themselves. */
function describe(row: EngineOption): string {
  return row.default === null ? row.help : `${row.help} (default: ${String(row.default)})`;
}
