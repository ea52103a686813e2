namespace LayerSkip.Cli

open System
open System.Threading
open System.Threading.Tasks
open LayerSkip

/// Decodes a little with a tiny model of its own while the real one is read from its files: what has to be compiled by then is not
/// waited for when tokens are.
[<RequireQualifiedAccess>]
module internal Warmup =
    let private newTokens = 40

    let private decode () : unit =
        let config =
            LlamaConfig.Llama(
                vocabulary = 64,
                layers = 4,
                hidden = 64,
                intermediate = 64,
                heads = 2,
                kvHeads = 1,
                context = 2 * newTokens
            )

        use model = Checkpoint.ofWeights "" (Weights.random 0L 0.1 Dtype.BF16 Device.Cpu config) None

        // Costs at which drafts pay, so that all of the policy's code is run.
        let costs () = PassCosts.ofShares (8 * config.Layers) 0.0 1.0

        { DraftingOptions.none with Policy = Some DraftPolicyKind.Auto; ExitLayer = Some 1 }
        |> Drafting.decide Sampling.Greedy model
        |> Result.bind (fun plan ->
            let options = GenerationOptions.greedy (Drafting.strategyWith costs model plan) newTokens
            Generation.complete model.Weights None options [| 1; 2; 3; 1; 2; 3; 1; 2 |])
        |> ignore

    /// Begins once libtorch is there, where there is a processor to spare. It ends with the process, if not before.
    let after (loading: Task) : unit =
        let work () =
            try
                loading.Wait()
                decode ()
            with _ ->
                // Whatever fails here fails again where it is told of.
                ()

        if Environment.ProcessorCount > 1 then
            Thread(work, IsBackground = true, Name = "warm-up").Start()
