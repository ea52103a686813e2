module LayerSkip.Tests.Runner

open Expecto

/// Runs the tests of the program at hand. Expecto's summary goes to the console in its own form; the closing line is plain,
/// for CI to read.
let run (argv: string[]) : int =
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
