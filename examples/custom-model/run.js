'use strict';
// Tells a story with the model of this folder.
// node examples/custom-model/run.js

const path = require('node:path');
const { LLM } = require('kvasir');
require('./dist/register.js');

async function main() {
  const llm = await LLM.create({ model: path.join(__dirname, 'dist', 'checkpoint') });
  try {
    const [output] = await llm.generate('Once upon a time', { temperature: 0, maxTokens: 40 });
    console.log(output.prompt + output.outputs[0].text);
  } finally {
    await llm.close();
  }
}

main().catch((error) => {
  console.error(`error: ${error.message}`);
  process.exitCode = 1;
});
