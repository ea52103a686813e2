module LayerSkip.Tests.Main

open LayerSkip

[<EntryPoint>]
let main argv =
    match List.ofArray argv with
    | word :: arguments when word = RankProgram.word -> RankProgram.run arguments
    | word :: arguments when word = FuzzProgram.word -> FuzzProgram.run arguments
    | _ ->
        // Nothing outside the tests' own folders is written.
        System.Environment.SetEnvironmentVariable(PassCostsCache.variable, "off")
        // Tiny tensors: a second thread costs more than it brings.
        Backend.setThreads 1
        Runner.run argv
