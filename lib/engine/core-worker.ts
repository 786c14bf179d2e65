/** The worker_thread of an AsyncLLM: an engine core behind the messages of messages.ts. */
import { parentPort, workerData, type MessagePort } from 'node:worker_threads';
import { importRegistrations } from '../utils/registrations';
import { defaultExecutorFactory } from './default-executor';
import { EngineCore, type ExecutorFactory } from './engine-core';
import { toWireError, type FromWorker, type ToWorker, type WorkerInit } from './messages';

async function main(port: MessagePort, init: WorkerInit): Promise<void> {
  const post = (message: FromWorker): void => port.postMessage(message);
  let core: EngineCore;
  try {
    await importRegistrations(init.imports);
    const created = await EngineCore.create(init.config, executorFactory(init), { onProgress: (progress) => post({ type: 'progress', progress }) }, {
      onOutputs: (outputs) => post({ type: 'outputs', outputs }),
      onRequestFailed: (requestId, error) => post({ type: 'requestFailed', requestId, error: toWireError(error) }),
      onDead: (error) => post({ type: 'dead', error: toWireError(error) }),
    });
    core = created.core;
    port.on('message', (message: ToWorker) => handle(port, core, message));
    post({ type: 'ready', info: created.info });
  } catch (error) {
    post({ type: 'startFailed', error: toWireError(error) });
    port.close();
  }
}

function executorFactory(init: WorkerInit): ExecutorFactory {
  if (init.executorModule === null) return defaultExecutorFactory;
  return (require(init.executorModule) as { createExecutor: ExecutorFactory }).createExecutor;
}

function handle(port: MessagePort, core: EngineCore, message: ToWorker): void {
  switch (message.type) {
    case 'add':
      for (const request of message.requests) core.addRequest(request);
      return;
    case 'abort':
      core.abortRequests(message.requestIds);
      return;
    case 'call': {
      const value = message.name === 'stats' ? core.stats() : core.resetPrefixCache();
      port.postMessage({ type: 'result', id: message.id, value } satisfies FromWorker);
      return;
    }
    case 'close':
      void close(port, core);
      return;
  }
}

/** Ends the thread: with the port closed nothing keeps its event loop alive. */
async function close(port: MessagePort, core: EngineCore): Promise<void> {
  let error: unknown = null;
  try {
    await core.shutdown();
  } catch (failure) {
    error = failure;
  }
  port.postMessage({ type: 'closed', error: error === null ? null : toWireError(error) } satisfies FromWorker);
  port.close();
}

if (parentPort !== null) void main(parentPort, workerData as WorkerInit);
