module LayerSkip.Tests.Main

open Expecto
open LayerSkip

let private runTests argv =
    // Expecto's summary goes to the console in its own form; CI reads this plain line.
    let counts = ref (0, 0, 0)

    let printer = {
        Impl.TestPrinters.defaultPrinter with
            summary =
                fun config summary ->
                    counts.Value <-
                        summary.passed.Length,
                        summary.failed.Length + summary.errored.Length,
                        summary.ignored.Length

                    Impl.TestPrinters.defaultPrinter.summary config summary
    }

    // Tiny tensors: a second thread costs more than it brings.
    Backend.setThreads 1

    let code =
        runTestsInAssemblyWithCLIArgs
            [
                CLIArguments.Printer printer
                CLIArguments.Colours 0
                CLIArguments.No_Spinner
            ]
            argv

    let passed, failed, skipped = counts.Value
    printfn $"\n{passed} passed, {failed} failed, {skipped} skipped"
    code

[<EntryPoint>]
let main argv =
    match List.ofArray argv with
    | word :: arguments when word = RankProgram.word -> RankProgram.run arguments
    | word :: arguments when word = FuzzProgram.word -> FuzzProgram.run arguments
    | _ -> runTests argv
