'use strict';
// Writes docs/errors.md and docs/options.md from the tables in the code (`npm run docs`); a test fails when they differ.

const fs = require('node:fs');
const path = require('node:path');
const { ROOT, runMain } = require('./common.js');

/** docs/errors.md from lib/utils/errors.ts. */
function errorsPage(errors) {
  const rows = Object.entries(errors).map(([code, row]) => `| \`${code}\` | ${row.status} | ${row.summary} |`);
  return `# Errors

Everything that Kvasir throws because of what a caller did, or because of what it found on the machine, is a \`KvasirError\` with a
stable \`code\`. Test for the code, not for the message: messages say what was expected and what was received, and may change.

\`\`\`js
const { LLM, KvasirError } = require('kvasir');

try {
  await LLM.create({ model: 'no/such/folder' });
} catch (error) {
  if (error instanceof KvasirError && error.code === 'ERR_KVASIR_MODEL_NOT_FOUND') {
    console.error(error.message);
  } else {
    throw error;
  }
}
\`\`\`

\`status\` is the HTTP status that a server should answer with (\`error.status\`). The command line prints
\`error: <message> (<code>)\` and exits with 1.

| code | status | meaning |
| --- | --- | --- |
${rows.join('\n')}
`;
}

function rangeOf(option) {
  if (option.type === 'enum') return option.choices.map((choice) => `\`${choice}\``).join(', ');
  if (option.type === 'boolean') return '`true`, `false`';
  if (option.type === 'string') return 'text';
  const open = option.max >= Number.MAX_SAFE_INTEGER;
  const kind = option.type === 'integer' ? 'integer' : 'number';
  if (option.min === option.max) return `${kind}, ${option.min}`;
  return open ? `${kind}, at least ${option.min}` : `${kind}, ${option.min} to ${option.max}`;
}

function defaultOf(option) {
  if (option.required) return 'required';
  return option.default === null ? 'derived' : `\`${option.default}\``;
}

/** docs/options.md from lib/config/options.ts; `flagOf` gives an option's command line flag. */
function optionsPage(options, flagOf) {
  const rows = options.map((option) => {
    const flag = option.name === 'model' ? 'argument' : `\`${flagOf(option.name)}\``;
    return `| \`${option.name}\` | ${flag} | ${defaultOf(option)} | ${rangeOf(option)} | ${option.help} |`;
  });
  return `# Engine options

\`LLM.create(options)\` and \`AsyncLLM.create(options)\` take these; the commands take the same as flags. Switches that are on by default
are turned off with \`--no-...\`, for example \`--no-enable-prefix-caching\`. An unknown or impossible option is refused with
\`ERR_KVASIR_CONFIG\`.

| option | flag | default | values | meaning |
| --- | --- | --- | --- | --- |
${rows.join('\n')}
`;
}

async function main() {
  const { ERRORS } = require(path.join(ROOT, 'dist/utils/errors.js'));
  const { ENGINE_OPTIONS, cliFlag } = require(path.join(ROOT, 'dist/config/options.js'));
  fs.writeFileSync(path.join(ROOT, 'docs/errors.md'), errorsPage(ERRORS));
  fs.writeFileSync(path.join(ROOT, 'docs/options.md'), optionsPage(ENGINE_OPTIONS, cliFlag));
}

module.exports = { errorsPage, optionsPage };

if (require.main === module) runMain(main);
