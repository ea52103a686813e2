namespace LayerSkip

open System
open System.Globalization
open System.IO
open System.Runtime.InteropServices

/// What a path leads to, symbolic links followed.
[<RequireQualifiedAccess>]
type internal PathKind =
    | Nothing
    | RegularFile
    | Folder
    /// A device, a FIFO, a socket: something to read or write, never to replace; to open it may wait for another process.
    | Special

/// What stands at a path and who owns it, by statx (Linux); elsewhere what .NET tells. Nothing here opens what it
/// looks at.
[<RequireQualifiedAccess>]
module internal PathKind =
    [<DllImport("libc", SetLastError = true)>]
    extern int private statx(int folder, byte[] path, int flags, uint32 mask, byte[] result)

    [<DllImport("libc")>]
    extern uint32 private geteuid()

    // Of struct statx, the same on every architecture: the size, places of owner and mode, and its bits of the type.
    let private size, ownerAt, modeAt, typeBits = 256, 20, 28, 0xF000us

    // .NET tells of devices and FIFOs nothing but that they are files.
    let private stateOf (path: string) : byte[] option =
        let currentFolder, typeModeAndOwner = -100, 11u
        let result = Array.zeroCreate<byte> size
        let name = Text.Encoding.UTF8.GetBytes(path + "\000")

        if statx (currentFolder, name, 0, typeModeAndOwner, result) = 0 then
            Some result
        else
            None

    let private typeOf (path: string) : uint16 option =
        stateOf path
        |> Option.map (fun state -> BitConverter.ToUInt16(state, modeAt) &&& typeBits)

    /// Whether a file is this user's, and nobody else may write it.
    let isOnlyOurs (path: string) : bool =
        match stateOf path with
        | Some state ->
            BitConverter.ToUInt32(state, ownerAt) = geteuid ()
            && BitConverter.ToUInt16(state, modeAt) &&& 0o022us = 0us
        | None -> false

    /// What stands there now; a link that leads nowhere is Nothing, as is what may not be looked at.
    let find (path: string) : PathKind =
        if Directory.Exists path then
            PathKind.Folder
        elif OperatingSystem.IsLinux() then
            match typeOf path with
            | None -> PathKind.Nothing
            | Some 0x8000us -> PathKind.RegularFile
            | Some _ -> PathKind.Special
        elif File.Exists path then
            PathKind.RegularFile
        else
            PathKind.Nothing

    let private isOfProcess (path: string) =
        path.StartsWith("/proc/", StringComparison.Ordinal)
        || path.StartsWith("/dev/fd/", StringComparison.Ordinal)

    /// Where a path's symbolic links end, or become those of a process.
    let rec private follow (depth: int) (path: string) : string =
        if isOfProcess path then
            path
        else
            match FileInfo(path).LinkTarget with
            | null -> path
            | _ when depth = 40 -> raise (IOException "its links lead in a circle")
            | next -> follow (depth + 1) (Path.Combine(Path.GetDirectoryName path, next))

    /// Where a path's symbolic links end. An open descriptor's end at a name that is none, or at a file that is not ours
    /// to replace.
    let resolve (path: string) : string option = Some(follow 0 path) |> Option.filter (isOfProcess >> not)

    /// The open descriptor of this process that a path stands for, as /dev/stdin and a shell's <(command) do.
    let descriptor (path: string) : int option =
        let path = follow 0 (Path.GetFullPath path)

        [ "/proc/self/fd/"; $"/proc/{Environment.ProcessId}/fd/"; "/dev/fd/" ]
        |> List.tryFind (fun folder -> path.StartsWith(folder, StringComparison.Ordinal))
        |> Option.bind (fun folder ->
            match
                Int32.TryParse(path.AsSpan folder.Length, NumberStyles.None, CultureInfo.InvariantCulture)
            with
            | true, number -> Some number
            | _ -> None)
