import { describeGpu } from '../fixtures/gpu';
import { deviceFaultSuite } from '../integration/device-fault-suite';

describeGpu.each([false, true])('on CUDA, an illegal address in the middle of a step (kvasir-tales-5m, enforceEager: %s)', (enforceEager) => {
  deviceFaultSuite({ device: 'cuda', enforceEager });
});
