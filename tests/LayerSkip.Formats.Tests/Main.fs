module LayerSkip.Formats.Tests.Main

open LayerSkip.Tests

[<EntryPoint>]
let main argv = Runner.run argv
