import { failureSuite } from './failure-suite';

describe('an engine that fails in the middle of its work (kvasir-tales-5m)', () => failureSuite());
