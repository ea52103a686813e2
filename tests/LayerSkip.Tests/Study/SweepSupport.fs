module LayerSkip.Tests.SweepSupport

open FsCheck
open FsCheck.FSharp
open LayerSkip

/// Cells as a sweep may have them.
let cellOf (config: SweepConfig) : Gen<SweepCell> =
    gen {
        let time = Gen.choose (1, 9_000_000) |> Gen.map (fun n -> float n / 1000.0)

        let rounds =
            gen {
                let! drafted = Gen.choose (0, 4)
                let! accepted = Gen.choose (0, drafted)
                return drafted, accepted
            }

        let decoding =
            gen {
                let! ms = Gen.arrayOfLength 5 time
                let! rounds = Gen.listOf rounds
                let! tokens = Gen.choose (0, 99)
                let! same = Gen.elements [ true; false ]

                return {
                    Tokens = tokens
                    Timings = {
                        TtftMs = ms[0]
                        DecodeMs = ms[1]
                        DraftMs = ms[2]
                        VerifyMs = ms[3]
                        HeadMs = ms[4]
                        PolicyMs = ms[0]
                    }
                    Metrics = SpeculationMetrics.ofRounds rounds
                    SameText = same
                }
            }

        let! decodings = Gen.arrayOfLength config.Settings.Length decoding
        let! prompt = Gen.choose (0, 7)
        let! ms = Gen.arrayOfLength 4 time
        let! isFirst = Gen.elements [ true; false ]

        let costs = {
            PlainMs = ms[0]
            Context = prompt
            Samples = 3
            Rounds = [
                for exit in config.ExitLayers ->
                    {
                        Exit = exit
                        Drafted = 1 + prompt % 3
                        RoundMs = ms[exit]
                        DraftMs = ms[3]
                        VerifyMs = ms[0]
                    }
            ]
        }

        return {
            Prompt = prompt
            Run = 1
            PromptTokens = 5
            Cpu = "a \"processor\""
            Threads = 2
            Decodings = decodings
            Costs = if isFirst then Some costs else None
        }
    }

let config: SweepConfig = {
    Model = "m"
    Fingerprint = "f"
    Layers = 6
    Dtype = "f32"
    Compute = Some "float"
    Kv = "f32"
    Prefill = "auto"
    Prompts = 8
    PromptsHash = "h"
    Runs = 2
    MaxNewTokens = 9
    StopIds = [ 2 ]
    ExitLayers = [ 1; 2 ]
    DraftLengths = [ 2; 4 ]
}

type Cells = Cells of SweepCell list

type Arbitraries =
    static member Cells() = Arb.fromGen (Gen.nonEmptyListOf (cellOf config) |> Gen.map Cells)
