namespace LayerSkip

/// Drafting that pays, or none. An exit and the lookup of what the text said before propose token by token, and a draft goes on while what the
/// next token is expected to bring is worth its time: s p > rho t, where s is the chance that all drafts before it are kept, p its own, t what it
/// adds to the round, and rho the tokens a millisecond that decoding makes, or would make plainly where that is more. The chance of a token is
/// learned as it goes: of the exit's from its confidence and from whether lookup says the same, of lookup's from the length of the
/// match. What drafts is chosen by full information: from time to time every exit that may draft is asked what it would have said, at
/// positions that the whole model has judged, in no more than a share of the time.
[<RequireQualifiedAccess>]
module AutoDrafter =
    let rec private drafter (state: AutoState) : Drafter = {
        new Drafter with
            member _.Name = "auto"
            member _.Exit = state.Options.Start
            member _.Watch = {
                Exits = state.Options.Exits |> List.map _.Layers
                PromptRows = 0
                // Rounds are all that it learns from; an adapter reads from the start on.
                Past = state.Adapter.IsSome
            }

            member _.Draft(request, reading) =
                let struct (drafts, reading, state) = AutoProposal.propose request reading state
                struct (drafts, reading, drafter state)

            member this.Learn seen =
                if seen.IsPrompt then
                    this
                else
                    drafter (AutoLearning.learn seen state)
    }

    /// A drafter for one text; the same value serves any number of them.
    let create (options: AutoOptions) : Drafter =
        drafter (AutoState.start None { options with Exits = Option.toList options.Start @ options.Exits })

    /// The same, where the exit is an adapter's, and no other drafts.
    let createOver (adapter: Adapter) (options: AutoOptions) : Drafter =
        drafter (
            AutoState.start (Some adapter) {
                options with
                    Exits = [ adapter.Exit ]
                    Start = Some adapter.Exit
            }
        )

    /// Exits worth a look beside the one that is recommended; without one, a spread of the first half.
    let candidates (layers: int) (recommended: ExitLayer option) : ExitLayer list =
        (match recommended with
         | Some exit -> [ exit.Layers; exit.Layers + 1; 2 * exit.Layers ]
         | None -> [ layers / 8; layers / 4; layers / 3; layers / 2 ])
        |> List.distinct
        |> List.choose (fun exit -> ExitLayer.TryCreate(layers, exit) |> Result.toOption)
