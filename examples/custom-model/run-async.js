'use strict';
// The same in a server's engine. It runs in a thread, where this program's modules are not loaded: workerImports names those it needs.
// node examples/custom-model/run-async.js

const path = require('node:path');
const { AsyncLLM } = require('kvasir');

async function main() {
  const llm = await AsyncLLM.create({
    model: path.join(__dirname, 'dist', 'checkpoint'),
    workerImports: [path.join(__dirname, 'dist', 'register.js')],
  });
  try {
    let text = 'Once upon a time';
    for await (const output of llm.generate(text, { temperature: 0, maxTokens: 40, outputKind: 'delta' })) text += output.outputs[0].text;
    console.log(text);
  } finally {
    await llm.close();
  }
}

main().catch((error) => {
  console.error(`error: ${error.message}`);
  process.exitCode = 1;
});
