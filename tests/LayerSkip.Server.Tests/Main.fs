module LayerSkip.Server.Tests.Main

open LayerSkip
open LayerSkip.Tests

[<EntryPoint>]
let main argv =
    // Nothing outside the tests' own folders is written.
    System.Environment.SetEnvironmentVariable(PassCostsCache.variable, "off")
    // Small matrices: a second thread brings less than it costs.
    Backend.setThreads 1
    Runner.run argv
