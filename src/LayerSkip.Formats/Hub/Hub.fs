namespace LayerSkip

open System.IO
open System.Threading
open System.Threading.Tasks

/// Models by name: brought once from a hub, from then on in a cache that Python's huggingface_hub shares.
[<RequireQualifiedAccess>]
module Hub =
    /// The model on a hub that a text means: org/name, org/name@revision, org/name:FILE, or the address of its page on the hub that
    /// the environment names; None of what is a path, or is written as one.
    let tryName (text: string) : HubName option =
        if HubName.isMeant text then
            HubOptions.ofEnvironment ()
            |> Result.bind (fun options -> HubName.parseAt options.Endpoint text)
            |> Result.toOption
        else
            None

    /// What of the model is in the cache, whole; of a branch, as it was when it was last asked for.
    let tryCached (options: HubOptions) (name: HubName) : HubSnapshot option =
        HubCache.commit options name |> Option.bind (HubLocal.find options name)

    let private absent (options: HubOptions) (text: string) =
        Error [
            LayerSkipError.NotOnHub(
                text,
                $"no file or folder is there, and it is not whole in the cache {options.Cache}, which alone is asked: HF_HUB_OFFLINE is set; unset it, or correct the name"
            )
        ]

    let private pullNamed
        (options: HubOptions)
        (text: string)
        (name: HubName)
        progress
        (cancel: CancellationToken)
        =
        task {
            let cached = tryCached options name

            match cached with
            | _ when options.Offline ->
                return cached |> Option.map Ok |> Option.defaultWith (fun () -> absent options text)
            // A commit never changes.
            | Some snapshot when HubName.isCommit name.Revision -> return Ok snapshot
            | _ ->
                use http = new HubHttp(options)
                let pull = HubPull(http, options, name, progress)

                // Who has a copy need not wait for a hub that does not answer.
                let! found = pull.Ask((if cached.IsSome then 0 else options.Retries), cancel)

                match found, cached with
                | Error fault, Some snapshot ->
                    progress (HubProgress.Remark(HubFaults.remark options name snapshot.Commit fault))
                    return Ok snapshot
                | Error fault, None -> return Error(HubFaults.errors options text name fault)
                | Ok(commit, listing), _ ->
                    let! brought = pull.Bring(commit, listing, cancel)
                    return brought |> Result.mapError (HubFaults.errors options text name)
        }

    /// Brings what is missing of a model, by its name as it is written, into the cache. `progress` is called from any thread,
    /// one call at a time. A cancelled or broken download goes on where it was; what is not whole does not look so.
    let pull
        (options: HubOptions)
        (text: string)
        (progress: HubProgress -> unit)
        (cancel: CancellationToken)
        : Task<Result<HubSnapshot, LayerSkipError list>> =
        match HubName.parseAt options.Endpoint text with
        | Error faults -> Task.FromResult(Error faults)
        | Ok name -> pullNamed options text name progress cancel

    /// The folder or .gguf file of a model that is brought as `pull` does.
    let resolve
        (options: HubOptions)
        (text: string)
        (progress: HubProgress -> unit)
        (cancel: CancellationToken)
        : Task<Result<string, LayerSkipError list>> =
        task {
            let! pulled = pull options text progress cancel
            return pulled |> Result.map _.Path
        }

    /// Where the model lies that a text names, a path or a name; a name is resolved as the environment says, a path stays.
    let locate
        (text: string)
        (progress: HubProgress -> unit)
        (cancel: CancellationToken)
        : Task<Result<string, LayerSkipError list>> =
        if not (HubName.isMeant text) then
            Task.FromResult(Ok text)
        else
            match HubOptions.ofEnvironment () with
            | Ok options -> resolve options text progress cancel
            | Error faults -> Task.FromResult(Error faults)

    /// The name that a path inside a cache has: "org/name" of a snapshot's folder, or of a file in it.
    let nameOf (path: string) : string option =
        let parts = (Path.GetFullPath path).Split Path.DirectorySeparatorChar

        match parts |> Array.tryFindIndexBack (fun part -> part = "snapshots") with
        | Some at when at > 0 && at + 1 < parts.Length && parts[at - 1].StartsWith "models--" ->
            let repository = parts[at - 1].Substring("models--".Length).Replace("--", "/")
            let file = parts[at + 2 ..] |> String.concat "/"
            Some(if file = "" then repository else $"{repository}:{file}")
        | _ -> None
