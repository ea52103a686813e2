module LayerSkip.Tests.CliSignalTests

open System.IO
open Expecto
open LayerSkip.Tests.CliSupport

/// Room for a text that takes minutes.
let private withLongModel body =
    withModel (fun folder ->
        editConfig "\"max_position_embeddings\": 96" "\"max_position_embeddings\": 20000" folder
        body folder)

/// Starts a command as job $!, whose standard error is the file `error`, waits for a condition, and sends signals.
let private interrupted (command: string) (condition: string) (signals: string) (folder: string) =
    let outcome =
        // A job of a script ignores SIGINT, unless job control is on.
        shell
            folder
            $"mkfifo fifo full; exec 3<>full; head -c 65536 /dev/zero >&3
              set -m
              layerskip {command} 2>error & job=$!
              for i in $(seq 600); do {condition} && break; sleep 0.1; done
              {signals}
              wait $job; code=$?; cat error >&2; exit $code"

    Expect.isEmpty (Directory.GetFiles(folder, "*.tmp")) "nothing unfinished stays"
    outcome

let private says (outcome: Outcome) =
    let lines = outcome.Error.Split('\n') |> Array.filter _.StartsWith("layerskip:")
    Expect.equal lines [| "layerskip: interrupted" |] outcome.Error

let private certify = "certify --model . --max-new-tokens 19000 --output made.txt"

[<Tests>]
let tests =
    testSequenced
    <| testList "command line: signals" [
        for name, code in [ "INT", 130; "TERM", 143 ] do
            testCase $"SIG{name} ends certify, says so, and leaves no unfinished file" (fun () ->
                withLongModel (fun folder ->
                    let outcome =
                        interrupted certify "ls *.tmp 2>/dev/null" $"sleep 1; kill -{name} $job" folder
                    Expect.equal outcome.Code code outcome.Error
                    says outcome
                    Expect.isFalse (File.Exists(Path.Combine(folder, "made.txt"))) "no output"))

            testCase $"SIG{name} ends a command that waits for its output" (fun () ->
                withLongModel (fun folder ->
                    let outcome =
                        interrupted "info --model . --output fifo" "sleep 1" $"kill -{name} $job" folder
                    Expect.equal outcome.Code code outcome.Error
                    says outcome))

            testCase $"SIG{name} ends the reading of a long prompt" (fun () ->
                withLongModel (fun folder ->
                    let ids = Seq.init 19000 (fun i -> string (i % 20)) |> String.concat ","

                    let outcome =
                        interrupted
                            $"generate --model . --prompt-ids {ids} --ignore-eos --output made.txt >text"
                            "grep -q cpu error"
                            $"kill -{name} $job"
                            folder

                    Expect.equal outcome.Code code outcome.Error
                    says outcome
                    Expect.isFalse (File.Exists(Path.Combine(folder, "made.txt"))) "no output"))

            testCase $"SIG{name} ends a text where it is" (fun () ->
                withLongModel (fun folder ->
                    let outcome =
                        interrupted
                            "generate --model . --prompt-ids 3 --ignore-eos --max-new-tokens 19000 --output made.txt >text"
                            "test -s text"
                            $"kill -{name} $job"
                            folder

                    Expect.equal outcome.Code code outcome.Error
                    says outcome
                    Expect.stringEnds (File.ReadAllText(Path.Combine(folder, "text"))) "\n" "the line ends"))

        testCase "a second signal ends a command that the first one cannot" (fun () ->
            withLongModel (fun folder ->
                // It waits for ever for a reader of a pipe that is full.
                let outcome =
                    interrupted
                        "generate --model . --prompt-ids 3 --ignore-eos --max-new-tokens 50 --output made.txt >&3"
                        "grep -q cpu error"
                        "sleep 1; kill -INT $job; sleep 0.5; kill -INT $job"
                        folder

                Expect.equal outcome.Code 130 outcome.Error))
    ]
