module LayerSkip.Tests.Main

open LayerSkip

[<EntryPoint>]
let main argv =
    match List.ofArray argv with
    | word :: arguments when word = RankProgram.word -> RankProgram.run arguments
    | word :: arguments when word = FuzzProgram.word -> FuzzProgram.run arguments
    | _ ->
        // Tiny tensors: a second thread costs more than it brings.
        Backend.setThreads 1
        Runner.run argv
