import { deviceFaultSuite } from './device-fault-suite';

describe('a device that fails in the middle of its work (pretended by the CPU, kvasir-tales-5m)', () => deviceFaultSuite({ device: 'cpu' }));
